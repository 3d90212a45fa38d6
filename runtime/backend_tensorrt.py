"""A TensorRT engine on a GPU. Not yet seen on one."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import mmap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .bundle import cache_dir
from .errors import BackendError, BackendUnavailableError, FileError, ShapeError, extra
from .files import write_whole
from .gpus import Gpu
from .manifest import EngineRecord
from .tensorrt import Library, load_library, make_log
from .types import Float32

_FLOAT_BYTES = 4
_MANY_SIZES = 32  # in one profile: beyond it a size hardly ever comes again, so compiling for each does not pay
_NON_BLOCKING = 1  # cudaStreamNonBlocking: it does not wait for what others do on the GPU
_ADVICE = "close what else takes its memory, use fewer --gpu-layers, or try --engine onnx"


class TensorrtBackend:
    """An engine behind the `Backend` protocol: a stream, and buffers that stay and grow with what goes through them."""

    def __init__(self, path: Path, record: EngineRecord, gpu: Gpu) -> None:
        """
        Raises:
            BackendUnavailableError: TensorRT or CUDA's Python is not installed, or the driver is too old.
            FileError: TensorRT does not take the engine.
            BackendError: the GPU has not the memory.
        """
        self._path, self._gpu = path, gpu
        self._library = load_library(record.library)
        self._cuda = import_cudart()
        self._lock = threading.Lock()
        self._log = make_log(self._library)
        self._buffers: dict[str, _Buffer] = {}
        self._call(self._cuda.cudaSetDevice, gpu.index)
        (self._stream,) = self._call(self._cuda.cudaStreamCreateWithFlags, _NON_BLOCKING)
        self._runtime: Any = None
        self._engine: Any = None
        self._cache: Any = None
        self._config: Any = None
        self._context: Any = None
        self._cache_path = _cache_path(record, gpu)
        self._profile = 0
        self._compiled: set[object] = set()
        try:
            self._runtime = self._library.module.Runtime(self._log)
            self._engine = self._loaded()
            names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
            inputs = self._library.module.TensorIOMode.INPUT
            self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == inputs]
            self._outputs = [name for name in names if name not in self._inputs]
            self._ranges = [
                [profile_range(self._engine, name, index) for name in self._inputs]
                for index in range(self._engine.num_optimization_profiles)
            ]
            self._context = self._made_context()
        except BaseException:
            self._let_go()
            self._cuda.cudaStreamDestroy(self._stream)  # an error here would hide the first one
            raise

    def run(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        """See `Backend.run`."""
        with self._lock:
            if self._context is None:
                raise BackendError(f"{self._path.name}: it was closed; open it again")
            self._call(self._cuda.cudaSetDevice, self._gpu.index)  # each thread has its own
            if set(inputs) != set(self._inputs):
                raise ShapeError(f"{self._path.name}: takes {sorted(self._inputs)}, got {sorted(inputs)}")
            parts = [self._once(part) for part in self._parts(inputs)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def close(self) -> None:
        """See `Backend.close`."""
        with self._lock:
            if self._context is None:
                return
            self._call(self._cuda.cudaSetDevice, self._gpu.index)
            self._keep_cache()
            self._let_go()
            while self._buffers:
                self._buffers.popitem()[1].free()
            self._call(self._cuda.cudaStreamDestroy, self._stream)

    def _let_go(self) -> None:
        """What is TensorRT's, in the order in which one leans on the next."""
        self._context = self._config = self._cache = self._engine = self._runtime = None

    def _parts(self, inputs: Mapping[str, Float32]) -> Iterator[dict[str, Float32]]:
        """The inputs as they are, or a batch in pieces that each fit a profile."""
        (first, *others) = self._inputs
        sizes = [(ranges[0][1], ranges[0][2]) for ranges in self._ranges if ranges[0][0] == 0]
        if others or not sizes:
            yield dict(inputs)
            return
        done = 0
        for size in pieces(len(inputs[first]), sizes):
            yield {first: inputs[first][done : done + size]}
            done += size

    def _once(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        """One pass through the GPU: everything is queued, then waited for."""
        self._log.errors.clear()
        self._choose_profile(inputs)
        for name in self._inputs:
            array = inputs[name]
            if array.dtype != np.float32 or not self._context.set_input_shape(name, tuple(array.shape)):
                wanted = tuple(self._engine.get_tensor_shape(name))
                raise ShapeError(f"{self._path.name}: {name} is float32 {wanted}, got {array.dtype} {array.shape}")
            buffer = self._buffer(name, array.size)
            buffer.host[: array.size] = array.reshape(-1)
            buffer.upload(array.size, self._stream)
        shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in self._outputs}
        sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
        for name, size in sizes.items():
            self._buffer(name, size)
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.device)
        if not _given(self._context.execute_async_v3, self._stream):
            raise BackendError(f"{self._path.name}: TensorRT cannot run it ({self._reason()}); try --engine onnx")
        for name, size in sizes.items():
            self._buffers[name].download(size, self._stream)
        self._call(self._cuda.cudaStreamSynchronize, self._stream)
        self._keep_what_is_new(inputs)
        return {name: self._buffers[name].host[: sizes[name]].reshape(shapes[name]).copy() for name in self._outputs}

    def _choose_profile(self, inputs: Mapping[str, Float32]) -> None:
        shapes = [inputs[name].shape for name in self._inputs]
        index = next((index for index, ranges in enumerate(self._ranges) if _fit(shapes, ranges)), None)
        if index is None:
            raise ShapeError(f"{self._path.name}: no profile of the engine takes {shapes}; build it again")
        if index != self._profile:
            self._profile = -1  # if it fails, none is known to be in use, and the next run chooses again
            if not _given(self._context.set_optimization_profile_async, index, self._stream):  # takes its memory
                raise BackendError(
                    f"{self._path.name}: profile {index} cannot be used on {self._gpu.name} ({self._reason()}); "
                    f"{_ADVICE}"
                )
            self._call(self._cuda.cudaStreamSynchronize, self._stream)
            self._profile = index

    def _buffer(self, name: str, size: int) -> _Buffer:
        """That of a tensor, with room for so many floats; it stays where it is until it must grow."""
        known = self._buffers.get(name)
        if known is not None and known.host.size >= size:
            return known
        if known is not None:
            del self._buffers[name]  # before anything fails: what is freed must not be found again
            known.free()
        self._buffers[name] = _Buffer(self._cuda, self._call, size)
        return self._buffers[name]

    def _loaded(self) -> Any:
        self._log.errors.clear()
        with self._path.open("rb") as file:
            blob = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._check_validity(blob)
        engine = _given(self._runtime.deserialize_cuda_engine, blob)
        if engine is None and any("memory" in line for line in self._log.errors):
            raise self._no_memory()
        if engine is None:
            raise FileError(
                f"{self._path}: {self._library.name} does not take this engine ({self._reason()}); build it again: "
                "`vllama export MODEL --weights DIR --engine tensorrt`"
            )
        return engine

    def _check_validity(self, blob: Any) -> None:
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        verdict, diagnostics = self._runtime.get_engine_validity(blob)
        if verdict == self._library.module.EngineValidity.INVALID:
            raise invalid(self._library, self._path, diagnostics, self._log.errors)

    def _made_context(self) -> Any:
        """With the memory of one profile at a time; with what an earlier run compiled, and passes that are recorded."""
        self._log.errors.clear()
        trt = self._library.module
        memory = trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        if not hasattr(trt, "CudaGraphStrategy"):  # NVIDIA's full TensorRT compiles nothing here
            return self._checked(_given(self._engine.create_execution_context, memory))
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(memory)
        kernels, passes = trt.DynamicShapesKernelSpecializationStrategy, trt.CudaGraphStrategy
        # Lazily, other kernels would run until those of a shape are compiled: the same question, two roundings.
        repeats = self._shapes_repeat()
        config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER if repeats else kernels.NONE
        config.cuda_graph_strategy = passes.WHOLE_GRAPH_CAPTURE if repeats else passes.DISABLED
        cache = config.create_runtime_cache()
        with contextlib.suppress(OSError):
            cache.deserialize(self._cache_path.read_bytes())  # one that is not taken is compiled anew
        config.set_runtime_cache(cache)
        self._config, self._cache = config, cache
        return self._checked(_given(self._engine.create_execution_context, config))

    def _shapes_repeat(self) -> bool:
        """Whether it is worth while to compile for a shape, and to record its pass."""
        sizes = [most - least for ranges in self._ranges for _, least, most in ranges]
        return max(sizes, default=0) < _MANY_SIZES

    def _checked(self, context: Any) -> Any:
        if context is None:
            raise self._no_memory()
        return context

    def _no_memory(self) -> BackendError:
        return BackendError(f"{self._path.name}: not enough memory on {self._gpu.name} ({self._reason()}); {_ADVICE}")

    def _keep_what_is_new(self, inputs: Mapping[str, Float32]) -> None:
        """On disk, as soon as a shape was compiled: a process that is killed closes nothing."""
        ran = tuple(inputs[name].shape for name in self._inputs) if self._shapes_repeat() else self._profile
        if ran not in self._compiled:
            self._compiled.add(ran)
            self._keep_cache()

    def _keep_cache(self) -> None:
        if self._cache is None:
            return
        compiled = self._cache.serialize()
        if compiled is None:
            return  # as below
        with contextlib.suppress(OSError):  # compiled again at the next start, nothing else
            self._cache_path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._cache_path, [memoryview(compiled)])

    def _call(self, function: Callable[..., tuple[Any, ...]], *arguments: Any) -> tuple[Any, ...]:
        """What a function of CUDA gives beside its verdict."""
        code, *results = function(*arguments)
        if int(code) == 0:
            return tuple(results)
        text = self._cuda.cudaGetErrorString(code)[1].decode()
        kind = BackendUnavailableError if code == self._cuda.cudaError_t.cudaErrorInsufficientDriver else BackendError
        raise kind(f"{self._path.name} on {self._gpu.name}: {function.__name__}: {text}; check `nvidia-smi`")

    def _reason(self) -> str:
        return self._log.errors[-1][:200] if self._log.errors else "it gives no reason"


class _Buffer:
    """Room for floats on the GPU and, pinned, beside it."""

    def __init__(self, cuda: ModuleType, call: Callable[..., tuple[Any, ...]], size: int) -> None:
        self._cuda, self._call = cuda, call
        (self.device,) = call(cuda.cudaMalloc, size * _FLOAT_BYTES)
        try:
            (self._pinned,) = call(cuda.cudaMallocHost, size * _FLOAT_BYTES)
        except BackendError:
            cuda.cudaFree(self.device)  # an error here would hide the first one
            raise
        self.host: Float32 = np.ctypeslib.as_array((ctypes.c_float * size).from_address(int(self._pinned)))

    def upload(self, size: int, stream: Any) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._cuda.cudaMemcpyAsync, self.device, self._pinned, size * _FLOAT_BYTES, kind, stream)

    def download(self, size: int, stream: Any) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._cuda.cudaMemcpyAsync, self._pinned, self.device, size * _FLOAT_BYTES, kind, stream)

    def free(self) -> None:
        try:
            self._call(self._cuda.cudaFree, self.device)
        finally:
            self._call(self._cuda.cudaFreeHost, self._pinned)


def pieces(count: int, sizes: list[tuple[int, int]]) -> list[int]:
    """A batch cut into pieces that fit the profiles (least, most), the largest first.

    Raises:
        ShapeError: what is left fits none.
    """
    cut = []
    while count:
        size = max((min(count, most) for least, most in sizes if count >= least), default=0)
        if size == 0:
            raise ShapeError(f"no profile of the engine takes a batch of {count}; build it again")
        cut.append(size)
        count -= size
    return cut


def _fit(shapes: Sequence[tuple[int, ...]], ranges: Sequence[tuple[int, int, int]]) -> bool:
    return all(
        axis < len(shape) and least <= shape[axis] <= most
        for shape, (axis, least, most) in zip(shapes, ranges, strict=True)
    )


def profile_range(engine: Any, name: str, profile: int) -> tuple[int, int, int]:
    """The free axis of an input, and what of it a profile takes, least and most."""
    least, _, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, profile))
    axis = next((axis for axis, size in enumerate(tuple(engine.get_tensor_shape(name))) if size < 0), 0)
    return axis, least[axis], most[axis]


def invalid(library: Library, path: Path, diagnostics: int, errors: list[str]) -> BackendError | FileError:
    """Why TensorRT says that an engine cannot run here; diagnostics: bits of its `EngineInvalidityDiagnostics`."""
    kinds = library.module.EngineInvalidityDiagnostics.__members__
    found = {name for name, bit in kinds.items() if int(diagnostics) & int(bit)}
    reasons = ", ".join(sorted(name.lower().replace("_", " ") for name in found)) or (errors or ["unknown"])[-1]
    if found & {"MALFORMED_ENGINE", "VERSION_MISMATCH", "UNSUPPORTED_CC"}:
        return FileError(
            f"{path}: not an engine for {library.name} {library.version} and this GPU ({reasons}); build it again: "
            "`vllama export MODEL --weights DIR --engine tensorrt`"
        )
    if "INSUFFICIENT_GPU_MEMORY" in found:
        return BackendError(f"{path.name}: not enough memory on the GPU ({reasons}); {_ADVICE}")
    return BackendUnavailableError(
        f"{path.name}: {library.name} cannot use the GPU ({reasons[:200]}); update its driver, or use --engine onnx"
    )


def _given(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call of TensorRT gives; None where its binding raises what others of them return."""
    with contextlib.suppress(RuntimeError, MemoryError):  # its own words are in the log
        return call(*arguments)
    return None


def import_cudart() -> ModuleType:
    """CUDA's runtime in Python.

    Raises:
        BackendUnavailableError: it is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendUnavailableError(
            f"cuda-bindings is not installed ({error}); install {extra('rtx')}, or use --engine onnx"
        ) from error
    module: ModuleType = runtime
    return module


def _cache_path(record: EngineRecord, gpu: Gpu) -> Path:
    """Where what was compiled for an engine and a kind of GPU is kept."""
    key = hashlib.sha256(f"{record.sha256} {record.version} {gpu.name} {gpu.capability}".encode()).hexdigest()
    return cache_dir() / "tensorrt" / f"{key[:32]}.cache"
