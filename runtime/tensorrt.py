"""TensorRT's library, of which there are two, and the engines of a bundle as it finds them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from .bundle import Bundle, verify_engines
from .errors import BackendUnavailableError, FileError, MissingFileError, SpecError, extra
from .gpus import Gpu

# By name, what can be imported of it: TensorRT for RTX comes under either of two names, as it was installed.
LIBRARIES = {"tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"), "tensorrt": ("tensorrt",)}


@dataclass(frozen=True)
class Library:
    """A loaded TensorRT: "tensorrt_rtx" or "tensorrt", its module and version."""

    name: str
    module: ModuleType
    version: str


def load_library(name: str | None = None) -> Library:
    """TensorRT by name, or the first there is; the one for RTX comes first.

    Raises:
        SpecError: there is no such library.
        BackendUnavailableError: it is not installed, or cannot be loaded.
    """
    if name is not None and name not in LIBRARIES:
        raise SpecError(f"TensorRT library {name!r} is unknown; use one of {', '.join(LIBRARIES)}")
    broken = []
    for each in (name,) if name else LIBRARIES:
        for module in LIBRARIES[each]:
            try:
                loaded = import_module(module)
            except ModuleNotFoundError:
                continue
            except (ImportError, OSError) as error:  # its own libraries are missing
                broken.append(f"{module} cannot be loaded ({error})")
                continue
            return Library(each, loaded, loaded.__version__)
    what = "; ".join(broken) or f"{name or ' or '.join(LIBRARIES)} is not installed"
    how = "NVIDIA's TensorRT" if name == "tensorrt" else extra("rtx")
    raise BackendUnavailableError(f"{what}; install {how}, or use --engine onnx")


@cache
def make_log(library: Library) -> Any:
    """The one `ILogger` of a library, which prints nothing and keeps what went wrong, in `errors`.

    One for the process, because TensorRT keeps the first that it is given, beyond what was made with it. `errors` are
    to be cleared before a call whose reason is asked for.
    """

    class Log(library.module.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.module.ILogger.Severity.ERROR:
                self.errors.append(" ".join(message.split()))

    return Log()


def check_engines(bundle: Bundle, gpu: Gpu) -> None:
    """Whether the engines of a bundle can run on a GPU, before any of them is loaded.

    Raises:
        MissingFileError: the bundle has no engine for a graph, or its file is not there.
        ChecksumError: a file is not the one that was built.
        FileError: an engine was built from another graph, or by another version.
        BackendUnavailableError: its library is not installed, or it was built for other GPUs.
    """
    manifest = bundle.manifest
    command = f"vllama export {manifest.model} --weights DIR --engine tensorrt --out {bundle.folder}"
    again = f"build it: `{command}`"
    missing = [graph for graph in bundle.graphs if graph not in manifest.engines]
    if missing:
        raise MissingFileError(f"{manifest.model} has no TensorRT engine for {', '.join(missing)}; {again}")
    for graph, record in manifest.engines.items():
        where = f"the TensorRT engine of {manifest.model}'s {graph}"
        if record.onnx != bundle.graph_hash(graph):
            raise FileError(f"{where} was built from another {graph}.onnx; {again}")
        library = load_library(record.library)
        if record.version != library.version:
            raise FileError(
                f"{where} was built by {record.library} {record.version}, installed is {library.version}; {again}"
            )
        if gpu.capability not in record.targets:
            raise BackendUnavailableError(
                f"{where} was built for compute capability {' '.join(record.targets)}, {gpu.name} has "
                f"{gpu.capability}; build it: `{command} --target {gpu.capability}`"
            )
    verify_engines(bundle, again)
