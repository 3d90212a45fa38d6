"""A graph -> an ONNX file with its weights beside it, at the precision asked for."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch.nn import functional

from vllama.runtime.backend import open_backend
from vllama.runtime.types import Float32

from .graphs import Graph, Input
from .precision import Precision, fold_transposes, lower

_OPSET = 20
_EXAMPLE_SIZE = 2  # torch takes an axis of size 1 for a fixed one
_ALIGNMENT = 4096  # so that ONNX Runtime maps the weights instead of reading them
_INLINE_BYTES = 1024
_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class Comparison:
    """An exported graph against torch: largest absolute difference, and cosine over the whole output."""

    max_abs: float
    cosine: float


def to_onnx(graph: Graph, path: Path, precision: Precision, progress: Callable[[int, int], None] | None = None) -> None:
    """Write `path` and `path`.data; inputs and outputs are float32 at every precision.

    Weights go to the file one by one, each rounded when its turn comes.

    Args:
        graph: with its weights, float32.
        progress: (bytes of weights written, bytes in all).
    """
    model = _traced(graph)
    fold_transposes(model)
    lower(model, precision, matmuls=graph.output != "embeds")
    _strip(model)
    total, done = sum({id(tensor): tensor.nbytes for tensor in _weights(model)}.values()), 0

    def written(tensor: ir.TensorProtocol, _: object) -> None:
        nonlocal done
        done += tensor.nbytes
        if progress:
            progress(min(done, total), total)

    ir.save(
        model,
        path,
        external_data=f"{path.name}.data",
        size_threshold_bytes=_INLINE_BYTES,
        alignment=_ALIGNMENT,
        align_threshold=_ALIGNMENT,
        callback=written,
    )
    if progress:
        progress(total, total)


def compare(graph: Graph, path: Path) -> Comparison:
    """Run an exported graph beside its torch original on fixed inputs."""
    rng = np.random.default_rng(0)
    inputs = {each.name: _example(each, rng) for each in graph.inputs}
    with torch.no_grad():
        expected = graph(*(torch.from_numpy(array) for array in inputs.values())).numpy().astype(np.float64).ravel()
    backend = open_backend(path)
    try:
        found = backend.run(inputs)[graph.output].astype(np.float64).ravel()
    finally:
        backend.close()
    norms = np.linalg.norm(expected) * np.linalg.norm(found)
    return Comparison(float(np.abs(found - expected).max()), float(expected @ found / norms))


def _traced(graph: Graph) -> ir.Model:
    arguments = tuple(torch.zeros(each.sized(_EXAMPLE_SIZE)) for each in graph.inputs)
    axis = torch.export.Dim(graph.inputs[0].axis, min=1, max=1 << 16)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            arguments,
            dynamo=True,
            dynamic_shapes=tuple({each.free: axis} for each in graph.inputs),
            input_names=[each.name for each in graph.inputs],
            output_names=[graph.output],
            opset_version=_OPSET,
            verbose=False,
        )
    assert program is not None
    return program.model


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter logs what it skips and warns of its own deprecations; none of it concerns the graph."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", message="# The axis name")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(model: ir.Model) -> None:
    """Remove what tells of the machine that exported it; the same weights give the same bytes."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        values += node.outputs
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None


def _weights(model: ir.Model) -> list[ir.TensorProtocol]:
    return [tensor for value in model.graph.initializers.values() if (tensor := value.const_value) is not None]


def _example(each: Input, rng: np.random.Generator) -> Float32:
    """Normal values; for pictures and filterbanks smooth ones, with the low frequencies that real ones have."""
    shape = each.sized(_EXAMPLE_SIZE)
    if len(shape) != 4 or each.free != 0:
        return rng.standard_normal(shape).astype(np.float32)
    coarse = torch.from_numpy(rng.standard_normal((*shape[:2], 8, 8)).astype(np.float32))
    smooth = functional.interpolate(coarse, size=shape[2:], mode="bilinear", align_corners=False).numpy()
    return np.ascontiguousarray(smooth + 0.1 * rng.standard_normal(shape), np.float32)
