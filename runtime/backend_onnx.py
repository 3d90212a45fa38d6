"""An ONNX graph on ONNX Runtime."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from .errors import BackendError, BackendUnavailableError, FileError, MissingFileError, ShapeError, extra
from .gpus import Gpu
from .types import Float32

if TYPE_CHECKING:
    import onnxruntime

READY = "vllama.ready"  # marks a graph in which ONNX Runtime has nothing left to improve on a CPU
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_CUDA_OPTIONS = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
_LIBRARIES = ("providers_shared", "providers_cuda")  # the second leans on the first
_CUDNN = "cudnn64_9.dll" if os.name == "nt" else "libcudnn.so.9"
_SILENT = 4  # more than fatal: failures come back as exceptions
_KERNELS = ("7.5", "8.0", "8.6", "8.9", "9.0", "12.0")  # of onnxruntime-gpu 1.31.1, which has none to compile (PTX)


_sessions: weakref.WeakSet[onnxruntime.InferenceSession] = weakref.WeakSet()


def _hold_sessions() -> None:
    """In a process that was forked off a session's end would wait for its threads, which are not here."""
    for session in _sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_hold_sessions)


class OnnxBackend:
    """An `onnxruntime.InferenceSession` behind the `Backend` protocol."""

    def __init__(self, path: Path, device: str = "cpu", threads: int | None = None) -> None:
        if not os.path.isfile(path):
            raise MissingFileError(f"{path}: no such file; export the model again")
        self._path, self._device = path, device
        session = _open_session(path, device, threads)
        _sessions.add(session)
        self._session: onnxruntime.InferenceSession | None = session
        self._inputs = {i.name: i.shape for i in session.get_inputs()}
        self._outputs = [o.name for o in session.get_outputs()]

    def run(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        """See `Backend.run`."""
        ort, session = _import_onnxruntime(), self._session  # which another thread may close meanwhile
        if session is None:
            raise BackendError(f"{self._path.name}: it was closed; open it again")
        self._check(inputs)
        try:
            outputs = session.run(self._outputs, dict(inputs))
        except _failures(ort) as error:
            raise _failure(self._path, self._device, error) from error
        return dict(zip(self._outputs, outputs, strict=True))

    def close(self) -> None:
        """See `Backend.close`."""
        self._session = None

    def _check(self, inputs: Mapping[str, Float32]) -> None:
        if set(inputs) != set(self._inputs):
            raise ShapeError(f"{self._path.name}: takes {sorted(self._inputs)}, got {sorted(inputs)}")
        for name, shape in self._inputs.items():
            array = inputs[name]
            fits = len(array.shape) == len(shape) and all(
                isinstance(size, str) or size == got for size, got in zip(shape, array.shape, strict=True)
            )
            if not fits or array.dtype != np.float32:
                raise ShapeError(f"{self._path.name}: {name} is float32 {shape}, got {array.dtype} {array.shape}")


@cache  # what it prints is kept away from the whole process: `place` asks first, before there are other threads
def check_cuda() -> None:
    """Whether this ONNX Runtime can be loaded with all that it needs of CUDA; asks no GPU.

    Raises:
        BackendUnavailableError: it cannot, and what is missing.
    """
    ort = _import_onnxruntime()
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if any(distributions(name=name))]
    again = "uninstall both, then " * bool(both[1:]) + f"install {extra('cuda')}"
    if _CUDA not in ort.get_available_providers():
        what = "onnxruntime and onnxruntime-gpu are both installed, and one hides the other" if both[1:] else ""
        raise BackendUnavailableError(
            f"{what or 'this onnxruntime is built for CPUs'}: it has no {_CUDA}; {again}, or use --device cpu"
        )
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        ort.preload_dlls()  # from the folders of pip's CUDA packages; it prints what it does not find
    start, end = ("", ".dll") if os.name == "nt" else ("lib", ".so")
    folder = Path(str(ort.__file__)).parent / "capi"
    own = [str(folder / f"{start}onnxruntime_{name}{end}") for name in _LIBRARIES]
    for library in (*own, _CUDNN):  # cuDNN by itself: it is loaded when a first convolution runs, no sooner
        try:
            ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise BackendUnavailableError(
                f"ONNX Runtime cannot use CUDA: {_one_line(error)}; {again} with its CUDA packages, or use --device cpu"
            ) from error


def check_kernels(gpu: Gpu) -> None:
    """Whether ONNX Runtime has kernels for a GPU; code of CUDA runs on its own major capability, from its minor on.

    Raises:
        BackendUnavailableError: it has none.
    """
    major, minor = (int(part) for part in gpu.capability.split("."))
    known = [tuple(int(part) for part in each.split(".")) for each in _KERNELS]
    if not any(own == major and least <= minor for own, least in known):
        raise BackendUnavailableError(
            f"ONNX Runtime has no kernels for {gpu.name}, compute capability {gpu.capability}, only for "
            f"{', '.join(_KERNELS)}; use --device cpu"
        )


def _open_session(path: Path, device: str, threads: int | None) -> onnxruntime.InferenceSession:
    ort = _import_onnxruntime()
    ort.disable_telemetry_events()  # Windows asks for this call; elsewhere `environment` did it
    ort.set_default_logger_severity(_SILENT)  # opening a session on a GPU warns through no session's log
    options = _options(ort, threads)
    providers: list[object] = [_CPU]
    if device != "cpu":
        check_cuda()
        providers = [(_CUDA, {"device_id": device.partition(":")[2] or "0", **_CUDA_OPTIONS}), _CPU]
    try:
        session = None
        if device == "cpu":
            # The default order unpacks all float16 weights of a graph before it needs the first, and the plan of a
            # known shape is a second arena: 120 MB a Q-former at full size, and nothing is faster for it.
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
            options.enable_mem_pattern = False
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = ort.InferenceSession(str(path), options, providers=providers, enable_fallback=False)
        if session is None or READY not in session.get_modelmeta().custom_metadata_map:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
            # Falling back, it prints to stdout and takes the CPU.
            session = ort.InferenceSession(str(path), options, providers=providers, enable_fallback=False)
    except _failures(ort) as error:
        if device != "cpu":
            raise _failure(path, device, error) from error
        raise FileError(f"{path}: not a usable ONNX graph ({_one_line(error)}); export the model again") from error
    if device != "cpu" and _CUDA not in session.get_providers():  # where CUDA's part does not load, it raises nothing
        raise BackendUnavailableError(f"ONNX Runtime cannot use {device}; check `nvidia-smi`, or use --device cpu")
    return session


def _options(ort: ModuleType, threads: int | None) -> onnxruntime.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT  # failures come back as exceptions; the log would be a second voice on stderr
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.inter_op_num_threads = 1
    # Without prepacking the weights stay mapped from the file: opening is instant and the memory is evictable.
    options.add_session_config_entry("session.disable_prepacking", "1")
    # Spinning workers would take the cores from the language model.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _import_onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        _let_ctrl_c_through(error)
        missing = isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime"
        what = "is not installed" if missing else f"cannot be loaded ({_one_line(error)})"
        raise BackendUnavailableError(
            f"onnxruntime {what}; install {extra('cpu')}, with an NVIDIA GPU `cuda`"
        ) from error
    module: ModuleType = onnxruntime
    return module


def _let_ctrl_c_through(error: BaseException | None) -> None:
    """ONNX Runtime's own import turns what its parts raise into an ImportError."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            raise error
        error = error.__cause__ or error.__context__


def _failures(ort: ModuleType) -> tuple[type[Exception], ...]:
    state = ort.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented",
             "RuntimeException", "EPFail", "ModelLoaded", "NoModel")  # fmt: skip
    return (*(getattr(state, name) for name in names if hasattr(state, name)), RuntimeError, ValueError)


def _failure(path: Path, device: str, error: Exception) -> BackendError:
    if device == "cpu":
        return BackendError(f"{path.name}: {_one_line(error)}; export the model again")
    return BackendError(f"{path.name} on {device}: {_one_line(error)}; check `nvidia-smi`, or use --device cpu")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
