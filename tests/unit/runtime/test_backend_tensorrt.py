"""What of the TensorRT backend can be seen without a GPU: how batches are cut, and how it fails."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vllama.export.to_tensorrt import EngineOptions, add_engines, open_builder
from vllama.runtime import backend_tensorrt
from vllama.runtime.backend_tensorrt import TensorrtBackend, _cache_path, import_cudart, invalid, pieces
from vllama.runtime.bundle import Bundle, open_bundle
from vllama.runtime.errors import BackendError, BackendUnavailableError, FileError, ShapeError
from vllama.runtime.gpus import Gpu, find_gpus
from vllama.runtime.manifest import EngineRecord
from vllama.runtime.tensorrt import Library, load_library, make_log

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not made for this system")
CARD = Gpu(0, "Card", "8.9", 8 << 30)
SIZES = [(1, 1), (1, 4), (8, 32)]


@pytest.fixture(scope="module")
def bundle(export_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of one small graph with its engine."""
    folder = Path(shutil.copytree(export_tiny(), tmp_path_factory.mktemp("trt") / "bundle"))
    whole = open_bundle(folder)
    files = {name: record for name, record in whole.manifest.files.items() if name.startswith("audio.")}
    sound = replace(whole, manifest=replace(whole.manifest, files=files))
    builder = open_builder(EngineOptions(targets=("8.9",)))
    return add_engines(sound, builder, lambda part, done, total: None, lambda cost: None)


@pytest.mark.parametrize(
    ("count", "cut"),
    [
        (1, [1]), (2, [2]), (4, [4]), (5, [4, 1]), (7, [4, 3]), (8, [8]), (31, [31]), (32, [32]),
        (33, [32, 1]), (40, [32, 8]), (100, [32, 32, 32, 4]),
    ],
)  # fmt: skip
def test_batch_is_cut_into_pieces_that_profiles_take(count: int, cut: list[int]) -> None:
    assert pieces(count, SIZES) == cut
    assert all(any(least <= size <= most for least, most in SIZES) for size in cut)


def test_batch_that_no_profile_takes_is_refused() -> None:
    with pytest.raises(ShapeError, match="no profile of the engine takes a batch of 3"):
        pieces(3, [(8, 32)])


def test_engine_on_a_machine_without_gpu_fails_in_one_line(bundle: Bundle) -> None:
    if _has_gpu():
        pytest.skip("there is a GPU; tests/gpu runs the engine on it")
    with pytest.raises(BackendUnavailableError, match=r"audio\.engine on Card: .*driver.*check `nvidia-smi`") as error:
        TensorrtBackend(bundle.path("audio.engine"), bundle.manifest.engines["audio"], CARD)
    assert "\n" not in str(error.value)


def test_tensorrt_tells_what_is_no_engine_from_what_the_machine_lacks(bundle: Bundle, tmp_path: Path) -> None:
    library = load_library("tensorrt_rtx")
    runtime = library.module.Runtime(make_log(library))
    _, junk = runtime.get_engine_validity(bundle.path("audio.onnx").read_bytes())
    error = invalid(library, tmp_path / "audio.engine", junk, [])
    assert isinstance(error, FileError)
    assert "not an engine for tensorrt_rtx" in str(error)
    assert "(malformed engine); build it again" in str(error)


@pytest.mark.parametrize(
    ("names", "kind", "words"),
    [
        (["VERSION_MISMATCH"], FileError, "and this GPU (version mismatch); build it again"),
        (["UNSUPPORTED_CC"], FileError, "(unsupported cc); build it again"),
        (["OLD_CUDA_DRIVER"], BackendUnavailableError, "cannot use the GPU (old cuda driver); update its driver"),
        (
            ["INSUFFICIENT_GPU_MEMORY"],
            BackendError,
            "not enough memory on the GPU (insufficient gpu memory); close what else takes its memory, use fewer",
        ),
        ([], BackendUnavailableError, "(what it logged)"),
    ],
)
def test_every_diagnosis_has_its_line(names: list[str], kind: type[BackendError], words: str) -> None:
    library = load_library("tensorrt_rtx")
    bits = sum(int(library.module.EngineInvalidityDiagnostics.__members__[name]) for name in names)
    error = invalid(library, Path("frames.engine"), bits, ["what it logged"])
    assert type(error) is kind
    assert words in str(error)


def test_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, module, None)
    install = re.escape('install the extra `rtx` (`pip install ".[rtx]"` in vllama\'s checkout), or use --engine onnx')
    with pytest.raises(BackendUnavailableError, match=f"^tensorrt_rtx is not installed; {install}$"):
        load_library("tensorrt_rtx")
    with pytest.raises(BackendUnavailableError, match=r"tensorrt_rtx or tensorrt is not installed"):
        load_library()


def test_library_whose_own_libraries_are_missing_says_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text(
        "raise ImportError('libnvonnxparser.so.11: cannot open shared object file')", "utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendUnavailableError, match=r"tensorrt cannot be loaded \(libnvonnxparser\.so\.11: cannot"):
        load_library("tensorrt")


def test_missing_cuda_bindings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    install = re.escape('install the extra `rtx` (`pip install ".[rtx]"` in vllama\'s checkout), or use --engine onnx')
    with pytest.raises(BackendUnavailableError, match=f"^cuda-bindings is not installed .*; {install}$"):
        import_cudart()


class FakeCuda:
    """The calls of CUDA's runtime that are made, on a GPU of so many bytes beside a host of so many."""

    cudaError_t = SimpleNamespace(cudaErrorInsufficientDriver=35)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, host_bytes: int = 64, gpu_bytes: int = 64) -> None:
        self.free = {"gpu": gpu_bytes, "host": host_bytes}
        self.held: dict[int, tuple[str, Any]] = {}
        self.streams = 0

    def cudaSetDevice(self, index: int) -> tuple[int]:
        return (0,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, str]:
        self.streams += 1
        return 0, "stream"

    def cudaStreamDestroy(self, stream: str) -> tuple[int]:
        self.streams -= 1
        return (0,)

    def cudaStreamSynchronize(self, stream: str) -> tuple[int]:
        return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: str) -> tuple[int]:
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        return self._take("gpu", size)

    def cudaMallocHost(self, size: int) -> tuple[int, int]:
        return self._take("host", size)

    def cudaFree(self, address: int) -> tuple[int]:
        return self._give("gpu", address)

    cudaFreeHost = cudaFree

    def cudaGetErrorString(self, code: int) -> tuple[int, bytes]:
        return 0, b"out of memory"

    def _take(self, place: str, size: int) -> tuple[int, int]:
        if size > self.free[place]:
            return 2, 0
        self.free[place] -= size
        block = ctypes.create_string_buffer(size)
        self.held[ctypes.addressof(block)] = (place, block)
        return 0, ctypes.addressof(block)

    def _give(self, place: str, address: int) -> tuple[int]:
        place, block = self.held.pop(address)  # a KeyError where it is given twice
        self.free[place] += len(block)
        return (0,)


def backend_of(cuda: FakeCuda, **attributes: Any) -> Any:
    """One on a made-up GPU, of which only what is asked for is there."""
    backend: Any = object.__new__(TensorrtBackend)
    known = {
        "_cuda": cuda,
        "_buffers": {},
        "_path": Path("frames.engine"),
        "_gpu": CARD,
        "_log": SimpleNamespace(errors=[]),
        "_ranges": [[(0, 1, 1)], [(0, 8, 32)]],
    }
    for name, value in {**known, **attributes}.items():
        setattr(backend, name, value)
    return backend


def test_buffer_that_cannot_grow_is_gone_and_not_used_again() -> None:
    cuda = FakeCuda()
    backend = backend_of(cuda)
    first = backend._buffer("pixel_values", 4)
    assert backend._buffer("pixel_values", 3) is first
    with pytest.raises(BackendError, match=r"frames\.engine on Card: cudaMalloc: out of memory; check `nvidia-smi`"):
        backend._buffer("pixel_values", 400)
    assert (backend._buffers, cuda.held) == ({}, {})
    assert backend._buffer("pixel_values", 16).host.size == 16


def test_buffer_with_room_stays_where_it_is() -> None:
    backend = backend_of(FakeCuda())
    buffer = backend._buffer("x", 4)
    assert backend._buffer("x", 4) is backend._buffer("x", 3) is buffer
    assert backend._buffer("x", 5) is not buffer


def test_compiled_kernels_are_those_of_the_engine_the_library_and_the_gpu() -> None:
    record = EngineRecord(1, "a" * 64, "b" * 64, "tensorrt_rtx", "1.0", ("8.9",))
    others = [
        (record, CARD),
        (replace(record, sha256="c" * 64), CARD),
        (replace(record, version="1.1"), CARD),
        (record, replace(CARD, name="Other")),
        (record, replace(CARD, capability="12.0")),
    ]
    assert len({_cache_path(*each) for each in others}) == len(others)
    assert _cache_path(record, replace(CARD, index=1)) == _cache_path(record, CARD)


def test_host_without_memory_takes_none_of_the_gpu() -> None:
    cuda = FakeCuda(host_bytes=0)
    with pytest.raises(BackendError, match="cudaMallocHost: out of memory"):
        backend_of(cuda)._buffer("pixel_values", 4)
    assert cuda.held == {}


def test_engine_that_is_not_taken_leaves_no_stream(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr(backend_tensorrt, "import_cudart", lambda: cuda)
    with pytest.raises(FileError, match=r"not an engine for tensorrt_rtx .*\(malformed engine\)"):
        TensorrtBackend(bundle.path("audio.onnx"), bundle.manifest.engines["audio"], CARD)
    assert cuda.streams == 0


def test_engine_that_is_refused_gives_no_older_reason(tmp_path: Path) -> None:
    path = tmp_path / "frames.engine"
    path.write_bytes(b"engine")
    log = SimpleNamespace(errors=["an older failure"])
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda blob: None)
    backend = backend_of(FakeCuda(), _path=path, _log=log, _runtime=runtime, _library=load_library("tensorrt_rtx"))
    with pytest.raises(FileError, match=r"does not take this engine \(it gives no reason\); build it again"):
        backend._loaded()


@pytest.mark.parametrize("raised", [None, RuntimeError("refused"), MemoryError()])
def test_engine_for_which_there_is_no_memory_is_not_said_to_be_another(
    raised: Exception | None, tmp_path: Path
) -> None:
    path = tmp_path / "frames.engine"
    path.write_bytes(b"engine")
    log = SimpleNamespace(errors=[])

    def deserialize(blob: object) -> None:
        log.errors += ["Cuda Runtime (out of memory)", "deserializeCudaEngine failed"]
        if raised is not None:
            raise raised

    runtime = SimpleNamespace(deserialize_cuda_engine=deserialize)
    backend = backend_of(FakeCuda(), _path=path, _log=log, _runtime=runtime, _library=load_library("tensorrt_rtx"))
    words = (
        r"frames\.engine: not enough memory on Card \(deserializeCudaEngine failed\); close what else .* --gpu-layers"
    )
    with pytest.raises(BackendError, match=words) as error:
        backend._loaded()
    assert type(error.value) is BackendError


def test_full_tensorrt_needs_nothing_of_the_one_for_rtx() -> None:
    """It has runtime configurations, too, and neither CUDA graphs nor compiled kernels in them."""
    made, asked = iter(["context", None]), list[str]()

    def create(strategy: str) -> str | None:
        asked.append(strategy)
        return next(made)

    engine = SimpleNamespace(create_runtime_config=object, create_execution_context=create)
    strategies = SimpleNamespace(ON_PROFILE_CHANGE="of one profile")
    module = SimpleNamespace(ExecutionContextAllocationStrategy=strategies)
    library = Library("tensorrt", module, "11.0")  # type: ignore[arg-type]
    backend = backend_of(FakeCuda(), _library=library, _engine=engine, _log=SimpleNamespace(errors=["an older one"]))
    assert backend._made_context() == "context"
    words = r"frames\.engine: not enough memory on Card \(it gives no reason\); close what else .* --engine onnx"
    with pytest.raises(BackendError, match=words):
        backend._made_context()
    assert asked == ["of one profile"] * 2


def test_kernels_of_a_shape_are_compiled_before_it_runs(tmp_path: Path) -> None:
    """So that a question is answered by the same kernels each time."""
    library = load_library("tensorrt_rtx")
    taken: list[object] = []
    cache = SimpleNamespace(deserialize=taken.append)
    memory: list[Any] = []
    config = SimpleNamespace(
        create_runtime_cache=lambda: cache,
        set_runtime_cache=taken.append,
        set_execution_context_allocation_strategy=memory.append,
    )
    engine = SimpleNamespace(create_runtime_config=lambda: config, create_execution_context=lambda config: "context")
    backend = backend_of(FakeCuda(), _library=library, _engine=engine, _cache_path=tmp_path / "kernels")
    assert (backend._made_context(), taken) == ("context", [cache])
    (tmp_path / "kernels").write_bytes(b"compiled before")
    assert (backend._made_context(), taken[1:]) == ("context", [b"compiled before", cache])
    assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
    assert config.cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
    assert {each.name for each in memory} == {"ON_PROFILE_CHANGE"}
    backend._ranges = [[(1, 1, 8), (0, 1, 8)], [(1, 9, 64), (0, 9, 64)]]  # as of `video`
    assert backend._made_context() == "context"
    assert config.dynamic_shapes_kernel_specialization_strategy.name == "NONE"
    assert config.cuda_graph_strategy.name == "DISABLED"
    for name in vars(config):
        assert hasattr(library.module.IRuntimeConfig, name), name


class FakeContext:
    """One that hands its input on, unless it is told to fail."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.runs = self.changes = True
        self.profiles: list[int] = []

    def set_optimization_profile_async(self, index: int, stream: str) -> bool:
        self.profiles.append(index)
        if not self.changes:
            raise RuntimeError("Error in set optimization profile async.")  # as the binding does
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: str) -> bool:
        ctypes.memmove(self.addresses["y"], self.addresses["x"], 4 * int(np.prod(self.shape)))
        return self.runs


def running(path: Path, **attributes: Any) -> tuple[Any, FakeContext, list[int]]:
    """A backend that hands `x` on as `y`, its context, and what it kept on disk."""
    kept: list[int] = []

    def serialize() -> bytes:
        kept.append(len(kept))
        return b"compiled"

    context = FakeContext()
    known = {
        "_lock": threading.Lock(),
        "_stream": "stream",
        "_inputs": ["x"],
        "_outputs": ["y"],
        "_profile": 0,
        "_compiled": set(),
        "_context": context,
        "_cache": SimpleNamespace(serialize=serialize),
        "_cache_path": path,
    }
    return backend_of(FakeCuda(1 << 12, 1 << 12), **{**known, **attributes}), context, kept


def rows(count: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(2.0 * count, dtype=np.float32).reshape(count, 2)}


def test_compiled_kernels_are_kept_as_soon_as_a_shape_ran(tmp_path: Path) -> None:
    """A process that is killed closes nothing."""
    path = tmp_path / "kernels"
    backend, _, kept = running(path)
    for count, times in ((1, 1), (1, 1), (8, 2), (9, 3), (8, 3), (1, 3)):
        np.testing.assert_array_equal(backend.run(rows(count))["y"], rows(count)["x"])
        assert len(kept) == times, count
    assert path.read_bytes() == b"compiled"


def test_what_one_pass_gave_is_not_touched_by_the_next(tmp_path: Path) -> None:
    backend, _, _ = running(tmp_path / "kernels")
    first = backend.run(rows(3))["y"]
    backend.run({"x": -rows(3)["x"]})
    np.testing.assert_array_equal(first, rows(3)["x"])


def test_where_no_shape_is_compiled_only_what_a_profile_needs_is_kept(tmp_path: Path) -> None:
    backend, _, kept = running(tmp_path / "kernels", _ranges=[[(0, 1, 8)], [(0, 9, 64)]])
    for count, times in ((1, 1), (2, 1), (9, 2), (10, 2), (3, 2)):
        backend.run(rows(count))
        assert len(kept) == times, count


def test_run_that_fails_keeps_nothing_and_gives_no_older_reason(tmp_path: Path) -> None:
    log = SimpleNamespace(errors=["an older failure"])
    backend, context, kept = running(tmp_path / "kernels", _log=log)
    context.runs = False
    with pytest.raises(BackendError, match=r"TensorRT cannot run it \(it gives no reason\); try --engine onnx"):
        backend.run(rows(1))
    assert kept == []


def test_profile_that_could_not_be_chosen_is_chosen_again_by_the_next_run(tmp_path: Path) -> None:
    backend, context, _ = running(tmp_path / "kernels")
    context.changes = False
    with pytest.raises(BackendError, match=r"profile 1 cannot be used on Card .*; close what else .* --engine onnx"):
        backend.run(rows(8))
    context.changes = True
    backend.run(rows(1))
    assert context.profiles == [1, 0]


def test_library_has_one_log() -> None:
    log = make_log(load_library("tensorrt_rtx"))
    assert make_log(load_library()) is log


def test_compiled_kernels_are_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    def keep(path: Path, compiled: bytes | None) -> list[str]:
        backend_of(FakeCuda(), _cache=SimpleNamespace(serialize=lambda: compiled), _cache_path=path)._keep_cache()
        return sorted(each.name for each in path.parent.iterdir()) if path.parent.is_dir() else []

    assert keep(tmp_path / "new" / "kernels", b"compiled") == ["kernels"]
    assert keep(tmp_path / "nothing" / "kernels", None) == []
    (tmp_path / "taken" / "kernels").mkdir(parents=True)  # which no file can replace
    assert keep(tmp_path / "taken" / "kernels", b"compiled") == ["kernels"]
    if sys.platform == "linux":
        full = tmp_path / "full"
        full.mkdir()
        (full / f"kernels.{os.getpid()}.part").symlink_to("/dev/full")
        assert keep(full / "kernels", b"compiled") == []


def _has_gpu() -> bool:
    try:
        return bool(find_gpus())
    except BackendUnavailableError:
        return False
