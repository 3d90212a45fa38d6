"""The graphs of a bundle -> TensorRT engines beside them; no GPU is needed where the library can build without."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vllama.runtime.bundle import Bundle, engine_name
from vllama.runtime.errors import BackendError, FileError, SpecError
from vllama.runtime.files import write_whole
from vllama.runtime.gpus import find_gpus
from vllama.runtime.manifest import EngineRecord, FileRecord, hash_file, write_manifest
from vllama.runtime.placement import GPU_BATCH
from vllama.runtime.remembered import memory_limit
from vllama.runtime.spec import ModelSpec
from vllama.runtime.tensorrt import Library, load_library, make_log

from .meter import Report, metered
from .staging import writing

Progress = Callable[[str, int, int], None]
Step = Callable[[int, int], None]
_OLDEST = 80  # compute capability 8.0: older ones are built for on request only
_CURRENT = 1  # not a capability, but "what is in this machine"
# Of pictures or stretches of sound: one, live, those of a file, and more than vllama itself gives at once. A profile
# takes the memory of its most, so the last is not the one for files.
_BATCHES = [(1, 1, 1), (1, 2, 4), (GPU_BATCH, GPU_BATCH, GPU_BATCH), (GPU_BATCH, 16, 32)]
_WAKE_SECONDS = 0.2  # waiting without a limit would keep Ctrl-C out on Windows


@dataclass(frozen=True)
class EngineOptions:
    """What engines are built with and for.

    library: "tensorrt_rtx" or "tensorrt"; None: the first there is. targets: compute capabilities as "8.9", in any
    order; none: every one from 8.0 on that the library builds for.
    """

    library: str | None = None
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Builder:
    """A library and what it is to build for, each once and the oldest first, with so many threads; None: its own."""

    library: Library
    targets: tuple[str, ...]
    threads: int | None = None


def open_builder(options: EngineOptions, threads: int | None = None) -> Builder:
    """Check before any work what engines can be built with.

    Raises:
        SpecError: the library does not build for such a target.
        BackendUnavailableError: it is not installed, or builds for the GPU of this machine only, and there is none.
    """
    library = load_library(options.library)
    capabilities = getattr(library.module, "ComputeCapability", None)
    if capabilities is None:
        own = find_gpus()[0].capability
        if any(target != own for target in options.targets):
            raise SpecError(f"{library.name} builds for the GPU of this machine, {own}; leave --target out")
        return Builder(library, (own,), threads)
    known = {_dotted(int(each)): int(each) for each in capabilities.__members__.values() if int(each) > _CURRENT}
    for target in options.targets:
        if target not in known:
            raise SpecError(f"{library.name} builds for {', '.join(known)}, not for {target}; choose of these")
    asked = options.targets or [name for name, each in known.items() if each >= _OLDEST]
    return Builder(library, tuple(name for name in sorted(known, key=known.__getitem__) if name in asked), threads)


def add_engines(bundle: Bundle, builder: Builder, progress: Progress, report: Report) -> Bundle:
    """A bundle with the engines that it lacks; each is recorded when it is finished, so that nothing is built twice.

    Raises:
        BackendError: TensorRT cannot build one.
        DiskFullError: one does not fit.
    """
    for graph in bundle.graphs:
        if is_current(bundle, graph, builder):
            continue
        name = engine_name(graph)
        build = partial(to_tensorrt, bundle, graph, builder, partial(progress, name))
        with writing(name, bundle.folder):
            record = metered(name, report, build, lambda made: made.bytes)
            manifest = replace(bundle.manifest, engines={**bundle.manifest.engines, graph: record})
            write_manifest(bundle.folder, manifest)
        bundle = replace(bundle, manifest=manifest)
    return bundle


def is_current(bundle: Bundle, graph: str, builder: Builder) -> bool:
    """Whether a graph has an engine already, whole and as this builder would make it."""
    record, path = bundle.manifest.engines.get(graph), bundle.path(engine_name(graph))
    return (
        record is not None
        and (record.onnx, record.library) == (bundle.graph_hash(graph), builder.library.name)
        and (record.version, record.targets) == (builder.library.version, builder.targets)
        and os.path.isfile(path)
        and hash_file(path) == FileRecord(record.bytes, record.sha256)
    )


def to_tensorrt(bundle: Bundle, graph: str, builder: Builder, progress: Step) -> EngineRecord:
    """Build the engine of one graph and write it beside the graph, complete or not at all.

    Args:
        progress: (bytes, bytes in all) of the graph's weights, as far as the work has come.

    Raises:
        BackendError: TensorRT does not take the graph, or cannot build it.
    """
    path = bundle.path(f"{graph}.onnx")
    total = sum(bundle.manifest.files[name].bytes for name in (path.name, f"{path.name}.data"))

    def step(fraction: float) -> None:
        progress(round(total * fraction), total)

    engine = memoryview(_built(builder, path, profiles(graph, bundle.spec), step))
    step(1.0)
    target = bundle.path(engine_name(graph))
    write_whole(target, [engine])
    return EngineRecord(
        engine.nbytes, hashlib.sha256(engine).hexdigest(), bundle.graph_hash(graph),
        builder.library.name, builder.library.version, builder.targets,
    )  # fmt: skip


def profiles(graph: str, spec: ModelSpec) -> list[tuple[int, int, int]]:
    """The sizes of a graph's free axis that its engine is tuned to: least, most likely, most of each profile."""
    if graph in ("frames", "clips"):
        return _BATCHES
    if graph == "audio":
        assert spec.audio is not None
        return [(1, spec.audio.num_clips, spec.audio.audio_qformer.max_clips)]
    few, most = spec.video.num_frames, memory_limit(spec)
    return [(1, few, few), *([(few + 1, most, most)] if most else [])]


def _built(builder: Builder, path: Path, sizes: Sequence[tuple[int, int, int]], step: Callable[[float], None]) -> Any:
    """The engine as a buffer; a failure of `step` or Ctrl-C ends the build at its next step."""
    monitor = _monitor(builder.library.module, step)
    # Ctrl-C is raised in the main thread, which therefore runs none of TensorRT's callbacks: what they raise is lost.
    with ThreadPoolExecutor(1, "tensorrt") as pool:
        building = pool.submit(_build, builder, path, sizes, monitor)
        try:
            while wait([building], _WAKE_SECONDS).not_done:
                pass
        except BaseException as failure:
            monitor.failure = failure
            raise
    if monitor.failure is not None:
        raise monitor.failure
    return building.result()


def _build(builder: Builder, path: Path, sizes: Sequence[tuple[int, int, int]], monitor: Any) -> Any:
    trt = builder.library.module
    log = make_log(builder.library)
    log.errors.clear()
    factory = trt.Builder(log)
    if builder.threads:
        factory.max_threads = builder.threads
    network = factory.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        reasons = [" ".join(parser.get_error(index).desc().split()) for index in range(parser.num_errors)]
        raise FileError(f"{path.name}: {builder.library.name} does not take it ({_first(reasons)}); export it again")
    config = factory.create_builder_config()
    for index, size in enumerate(sizes):
        added = config.add_optimization_profile(_profile(factory, network, size))
        assert added == index, (path.name, size)
    if hasattr(config, "num_compute_capabilities"):
        config.num_compute_capabilities = len(builder.targets)
        for index, target in enumerate(builder.targets):
            config.set_compute_capability(trt.ComputeCapability(int(target.replace(".", ""))), index)
    config.progress_monitor = monitor
    engine = factory.build_serialized_network(network, config)
    if engine is None:
        raise BackendError(
            f"{path.name}: {builder.library.name} {builder.library.version} cannot build it ({_first(log.errors)}); "
            "free memory or choose another --target"
        )
    return engine


def _network_flags(trt: Any) -> int:
    """Types are those of the graph. Versions of TensorRT that know no others have no flag for it."""
    flags = trt.NetworkDefinitionCreationFlag.__members__
    return 1 << int(flags["STRONGLY_TYPED"]) if "STRONGLY_TYPED" in flags else 0


def _profile(factory: Any, network: Any, sizes: tuple[int, int, int]) -> Any:
    profile = factory.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes = [tuple(size if dim < 0 else dim for dim in tensor.shape) for size in sizes]
        profile.set_shape(tensor.name, *shapes)
    return profile


def _monitor(trt: Any, step: Callable[[float], None]) -> Any:
    """What TensorRT tells its progress: phases of so many steps inside a step of the phase that began them."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.failure: BaseException | None = None
            self._open: dict[str, list[int]] = {}  # phase -> [steps done, steps in all], outermost first
            self._told = 0.0
            self._lock = threading.Lock()  # TensorRT may tell from several threads

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            with self._lock:
                self._open[name] = [0, max(steps, 1)]

        def phase_finish(self, name: str) -> None:
            with self._lock:
                self._open.pop(name, None)

        def step_complete(self, name: str, number: int) -> bool:
            with self._lock:
                if self.failure is not None:
                    return False
                if name in self._open:
                    self._open[name][0] = number + 1
                try:
                    self._told = max(self._told, self._fraction())  # a phase may end before its steps do
                    step(self._told)
                except BaseException as failure:  # noqa: BLE001 - raised again where TensorRT, which ends first, returns
                    self.failure = failure
                    return False
                return True

        def _fraction(self) -> float:
            fraction, share = 0.0, 1.0
            for done, steps in self._open.values():
                fraction += share * min(done, steps) / steps
                share /= steps
            return min(fraction, 1.0)

    return Monitor()


def _dotted(capability: int) -> str:
    return f"{capability // 10}.{capability % 10}"


def _first(errors: Sequence[str]) -> str:
    return errors[0][:200] if errors else "it gives no reason"
