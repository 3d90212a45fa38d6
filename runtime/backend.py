"""A graph that can be run, whatever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from .backend_onnx import OnnxBackend
from .backend_tensorrt import TensorrtBackend
from .bundle import Bundle, engine_name
from .placement import Placement
from .types import Float32


class Backend(Protocol):
    """One open graph."""

    def run(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        """Run it once.

        Args:
            inputs: every input of the graph by name, float32.

        Returns:
            every output of the graph by name, float32.

        Raises:
            ShapeError: an input is missing, unknown, not float32 or not of the graph's shape.
            BackendError: the run failed.
        """
        ...

    def close(self) -> None:
        """Give the graph's memory back; a second call does nothing."""
        ...


def open_backend(path: Path, device: str = "cpu", threads: int | None = None) -> Backend:
    """Open a graph.

    Args:
        path: an ONNX file; its external data stands beside it.
        device: "cpu", "cuda" or "cuda:N".
        threads: CPU threads, None for one on each logical core.

    Raises:
        MissingFileError, FileError: the file is not there, or is no ONNX graph.
        BackendUnavailableError: this machine cannot run it on that device.
    """
    return OnnxBackend(path, device, threads)


def open_graph(bundle: Bundle, graph: str, placement: Placement, threads: int | None = None) -> Backend:
    """Open a graph of a bundle where it was decided to run, its engine where that is TensorRT.

    Raises:
        As `open_backend`.
    """
    if placement.runner == "onnx":
        return open_backend(bundle.path(f"{graph}.onnx"), placement.device, threads)
    assert placement.gpu is not None
    return TensorrtBackend(bundle.path(engine_name(graph)), bundle.manifest.engines[graph], placement.gpu)
