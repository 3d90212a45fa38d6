"""Lower the precision of a traced graph; each weight is rounded when it is written, not before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from vllama.runtime.types import Float32

Precision = Literal["fp32", "fp16", "int8"]

# Without VNNI, x86 adds pairs of uint8 * int8 products in a saturating int16: 255 * 63 * 2 is the most that fits.
_WEIGHT_MAX = 63
_ACTIVATION_MAX = 127
_ZERO_POINT = 128
_SMALLEST_SCALE = 1e-12  # a row of zeros stays a row of zeros
_PRODUCTS = ("MatMul", "Gemm", "Conv")


def fold_transposes(model: ir.Model) -> None:
    """Store weights as they are used, (in, out), instead of transposing them at every start."""
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        tensor = source.const_value if source is not None else None
        if source is None or tensor is None:
            continue
        order = node.attributes["perm"].as_ints()
        shape = [_shape(tensor)[axis] for axis in order]
        folded = _weight(
            model,
            f"{source.name}_transposed",
            tensor.dtype,
            shape,
            partial(_transposed, tensor, order),
        )
        ir.convenience.replace_all_uses_with(node.outputs[0], folded)
        model.graph.remove(node, safe=True)
    _drop_unused(model)


def lower(model: ir.Model, precision: Precision, matmuls: bool) -> None:
    """Rewrite the graph in place.

    fp16: products in float16, everything between them in float32, as the original's autocast runs them. int8: products
    with constant matrices in 8 bits, activations scaled per token so that a result does not depend on what else is in
    the batch; weights within +-63. Where `matmuls` is False int8 only stores weights in float16: the small graphs.
    """
    if precision == "fp16":
        _half_products(model)
    elif precision == "int8" and matmuls:
        _eight_bit_products(model)
    elif precision == "int8":
        _half_weights(model)
    _drop_unused(model)


def _half_products(model: ir.Model) -> None:
    for node in [node for node in model.graph if node.op_type in _PRODUCTS]:
        before = _Builder(model, node)
        for index, value in enumerate(node.inputs):
            if value is not None:
                half = _half(model, value) if value.const_value is not None else before.cast(value, ir.DataType.FLOAT16)
                node.replace_input_with(index, half)
        product = node.outputs[0]
        product.dtype = ir.DataType.FLOAT16
        _reroute(model, product, _Builder(model, node, after=True).cast(product, ir.DataType.FLOAT))


def _half_weights(model: ir.Model) -> None:
    for node in [node for node in model.graph if node.op_type in _PRODUCTS]:
        before = _Builder(model, node)
        for index, value in enumerate(node.inputs):
            if value is not None and value.const_value is not None and len(value.const_value.shape) > 1:
                node.replace_input_with(index, before.cast(_half(model, value), ir.DataType.FLOAT))


def _eight_bit_products(model: ir.Model) -> None:
    quantised: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    zero_point = _weight(model, "zero_point", ir.DataType.UINT8, [], lambda: np.array(_ZERO_POINT, np.uint8))
    for node in [node for node in model.graph if node.op_type == "MatMul"]:
        x, weight = node.inputs
        if x is None or weight is None or weight.const_value is None or len(weight.const_value.shape) != 2:
            continue
        build = _Builder(model, node)
        if x not in quantised:
            quantised[x] = _quantise_tokens(model, build, x)
        q, token_scale = quantised[x]
        w, channel_scale = _quantise_weight(model, weight)
        total = build.cast(build.add("MatMulInteger", q, w, zero_point), ir.DataType.FLOAT)
        product = build.add("Mul", build.add("Mul", total, token_scale), channel_scale)
        _reroute(model, node.outputs[0], product)
        model.graph.remove(node, safe=True)


def _quantise_tokens(model: ir.Model, build: _Builder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """x (..., K) -> uint8 around 128 and its scale (..., 1), one per token."""
    axis = _constant(model, "last_axis", np.array([-1], np.int64))
    smallest = _constant(model, "smallest_scale", np.array(_SMALLEST_SCALE, np.float32))
    step = _constant(model, "step", np.array(1 / _ACTIVATION_MAX, np.float32))
    centre = _constant(model, "centre", np.array(_ZERO_POINT, np.float32))
    largest = build.add("ReduceMax", build.add("Abs", x), axis, keepdims=1)
    scale = build.add("Mul", build.add("Max", largest, smallest), step)
    rounded = build.add("Add", build.add("Round", build.add("Div", x, scale)), centre)
    return build.cast(rounded, ir.DataType.UINT8), scale


def _quantise_weight(model: ir.Model, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(K, N) -> int8 within +-63 and its scale (N,), one per output channel."""
    tensor = weight.const_value
    assert tensor is not None
    shape = _shape(tensor)

    def scale() -> Float32:
        largest: Float32 = np.maximum(np.abs(tensor.numpy()).max(0), _SMALLEST_SCALE)
        return (largest / _WEIGHT_MAX).astype(np.float32)

    def rounded() -> NDArray[np.int8]:
        steps: Float32 = np.rint(tensor.numpy() / scale())
        return np.clip(steps, -_WEIGHT_MAX, _WEIGHT_MAX).astype(np.int8)

    name = weight.name
    return (
        _weight(model, f"{name}_int8", ir.DataType.INT8, shape, rounded),
        _weight(model, f"{name}_scale", ir.DataType.FLOAT, shape[1:], scale),
    )


class _Builder:
    """Adds nodes before (or after) an anchor."""

    def __init__(self, model: ir.Model, anchor: ir.Node, after: bool = False) -> None:
        self._graph = model.graph
        self._anchor = anchor
        self._after = after

    def add(self, op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        node = ir.node(op, inputs, attributes)
        node.outputs[0].name = f"{op}_{len(self._graph)}_{self._anchor.outputs[0].name}"
        if self._after:
            self._graph.insert_after(self._anchor, node)
        else:
            self._graph.insert_before(self._anchor, node)
        return node.outputs[0]

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        wide = self.add("Cast", value, to=int(dtype))
        wide.dtype = dtype
        return wide


def _half(model: ir.Model, value: ir.Value) -> ir.Value:
    tensor = value.const_value
    assert tensor is not None
    return _weight(
        model, f"{value.name}_half", ir.DataType.FLOAT16, _shape(tensor), lambda: tensor.numpy().astype(np.float16)
    )


def _constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    return _weight(model, name, ir.DataType.from_numpy(array.dtype), list(array.shape), lambda: array)


def _weight(
    model: ir.Model, name: str, dtype: ir.DataType, shape: list[int], make: Callable[[], np.ndarray]
) -> ir.Value:
    """An initializer whose values are computed when they are written; one per name."""
    known = model.graph.initializers.get(name)
    if known is not None:
        return known
    tensor = ir.LazyTensor(lambda: ir.Tensor(make(), name=name), dtype=dtype, shape=ir.Shape(shape), name=name)
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def _transposed(tensor: ir.TensorProtocol, order: Sequence[int]) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy().transpose(order))


def _shape(tensor: ir.TensorProtocol) -> list[int]:
    return list(tensor.shape.numpy())


def _reroute(model: ir.Model, old: ir.Value, new: ir.Value) -> None:
    """Give `new` to everything that took `old`, also as an output of the graph, but for what makes it."""
    for user, index in list(old.uses()):
        if user is not new.producer():
            user.replace_input_with(index, new)
    for index, output in enumerate(model.graph.outputs):
        if output is old:
            old.name, new.name = f"{old.name}_inner", old.name
            new.dtype, new.shape = ir.DataType.FLOAT, old.shape
            model.graph.outputs[index] = new


def _drop_unused(model: ir.Model) -> None:
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]
