"""A graph -> an ONNX file with its weights beside it, at the precision asked for."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnxscript.optimizer import optimize_ir
from torch import Tensor
from torch.nn import functional

from vllama.runtime.backend import open_backend
from vllama.runtime.backend_onnx import READY
from vllama.runtime.precision import Precision
from vllama.runtime.progress import counted
from vllama.runtime.types import Float32

from .graphs import Graph, Input
from .lent import Read, hollow
from .precision import Computed, fold_transposes, lower
from .recipe import Recipe

_OPSET = 20
_EXAMPLE_SIZE = 2  # torch takes an axis of size 1 for a fixed one
_ALIGNMENT = 4096  # so that ONNX Runtime maps the weights instead of reading them
_INLINE_BYTES = 1024
_FOLDED_SIZE = 1 << 14  # values; what is computed from so few is computed once
_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class Comparison:
    """An exported graph against torch: largest absolute difference, and over the whole output relative and cosine."""

    max_abs: float
    relative: float
    cosine: float


def to_onnx(
    graph: Graph,
    read: Read,
    path: Path,
    precision: Precision,
    recipe: Recipe | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `path` and `path`.data; inputs and outputs are float32 at every precision.

    Weights go to the file one by one, each read and rounded when its turn comes.

    Args:
        graph: with or without weights; afterwards without.
        read: its weights.
        recipe: for int8; without one, int8 only stores weights in float16.
        progress: (bytes of weights written, bytes in all).
    """
    model = _traced(graph, recipe.read(read) if recipe else read)
    lower(model, precision, recipe)
    _strip(model)
    if precision in (
        "fp32",
        "int8",
    ):  # the others' casts are for ONNX Runtime to place, as the device has halves or not
        model.metadata_props[READY] = "1"
    total = sum({id(tensor): tensor.nbytes for tensor in _weights(model)}.values())
    written = counted(progress, total)
    ir.save(
        model,
        path,
        external_data=f"{path.name}.data",
        size_threshold_bytes=_INLINE_BYTES,
        alignment=_ALIGNMENT,
        align_threshold=_ALIGNMENT,
        callback=lambda tensor, _: written(tensor.nbytes),
    )
    written(total)


def examples(graph: Graph, count: int, seed: int = 0) -> dict[str, Float32]:
    """So many fixed inputs of a graph, or ones of that length."""
    rng = np.random.default_rng(seed)
    return {each.name: _example(each, count, rng) for each in graph.inputs}


def compare(path: Path, inputs: dict[str, Float32], expected: Float32, threads: int | None = None) -> Comparison:
    """Run an exported graph on what torch has run."""
    backend = open_backend(path, threads=threads)
    try:
        (output,) = backend.run(inputs).values()
    finally:
        backend.close()
    wanted, found = expected.astype(np.float64).ravel(), output.astype(np.float64).ravel()
    length, error = np.linalg.norm(wanted), np.abs(found - wanted)
    return Comparison(
        max_abs=float(error.max()),
        relative=float(np.linalg.norm(error) / length),
        cosine=float(wanted @ found / (length * np.linalg.norm(found))),
    )


def _traced(graph: Graph, read: Read) -> ir.Model:
    """The graph as ONNX, its matrices to be read when they are used."""
    matrices = hollow(graph, read)
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
            optimize=False,  # it would transpose the stand-ins, each in memory
            verbose=False,
        )
        assert program is not None
        model = program.model
        for key in matrices:
            _attach(model.graph.initializers[key], partial(read, key))
        fold_transposes(model)
        optimize_ir(model, should_fold=_is_small, input_size_limit=_FOLDED_SIZE, output_size_limit=_FOLDED_SIZE)
    for value in model.graph.initializers.values():
        if not isinstance(value.const_value, ir.LazyTensor) and value.const_value is not None:
            value.const_value = Computed(value.const_value.numpy(), name=value.name)
    return model


def _attach(value: ir.Value, read: Callable[[], Tensor]) -> None:
    """Values of an initializer that are read when they are written."""
    stand_in = value.const_value
    assert stand_in is not None
    name, shape = value.name, ir.Shape(stand_in.shape.numpy())

    def tensor() -> ir.TensorProtocol:
        return Computed(read().to(torch.float32).contiguous().numpy(), name=name)

    value.const_value = ir.LazyTensor(tensor, dtype=ir.DataType.FLOAT, shape=shape, name=name)


def _is_small(node: ir.Node) -> bool | None:
    """False where a matrix would be read to compute something from it."""
    matrices = (value for value in node.inputs if value is not None and isinstance(value.const_value, ir.LazyTensor))
    return False if any(matrices) else None


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


def _example(each: Input, count: int, rng: np.random.Generator) -> Float32:
    """Normal values; for pictures and filterbanks smooth ones, with the low frequencies that real ones have."""
    shape = each.sized(count)
    if len(shape) != 4 or each.free != 0:
        return rng.standard_normal(shape).astype(np.float32)
    coarse = torch.from_numpy(rng.standard_normal((*shape[:2], 8, 8)).astype(np.float32))
    smooth = functional.interpolate(coarse, size=shape[2:], mode="bilinear", align_corners=False).numpy()
    return np.ascontiguousarray(smooth + 0.1 * rng.standard_normal(shape), np.float32)
