"""Lower the precision of a traced graph; each weight is rounded when it is written, not before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from vllama.runtime.precision import Precision

from .recipe import Recipe
from .rounding import ACTIVATION_MAX, SMALLEST_SCALE, full_scale, round_full, round_weight, weight_scale

TRANSPOSED = "_transposed"  # what is added to a weight's key when it is stored as it is used
_CONTRIB = "com.microsoft"
_ZERO_POINT = 128
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
            f"{source.name}{TRANSPOSED}",
            tensor.dtype,
            shape,
            partial(_transposed, tensor, order),
        )
        ir.convenience.replace_all_uses_with(node.outputs[0], folded)
        model.graph.remove(node, safe=True)
    _drop_unused(model)


def lower(model: ir.Model, precision: Precision, recipe: Recipe | None = None) -> None:
    """Rewrite the graph in place.

    fp16: products in float16, everything between them in float32, as the original's autocast runs them. w8a16: the same
    with constant matrices stored in 8 bits, which TensorRT widens as it multiplies. int8: products
    with constant matrices in 8 bits as `recipe` has them, activations scaled per token, so that a result does not
    depend on what else is in the batch. Without a recipe int8 only stores weights in float16: the small graphs.
    """
    if precision in ("fp16", "w8a16"):
        _half_products(model, eight_bits=precision == "w8a16")
    elif precision == "int8" and recipe is not None:
        _eight_bit_products(model, recipe)
    elif precision == "int8":
        _half_weights(model)
    _drop_unused(model)


def _half_products(model: ir.Model, *, eight_bits: bool) -> None:
    for node in [node for node in model.graph if node.op_type in _PRODUCTS]:
        before = _Builder(model, node)
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if value.const_value is None:
                half = before.cast(value, ir.DataType.FLOAT16)
            elif eight_bits and node.op_type == "MatMul" and len(value.const_value.shape) == 2:
                half = _half_of_bytes(model, before, value)
            else:
                half = _half(model, value)
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


def _eight_bit_products(model: ir.Model, recipe: Recipe) -> None:
    tokens: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
    for node in [node for node in model.graph if node.op_type == "MatMul"]:
        x, weight = node.inputs
        if x is None or weight is None or weight.const_value is None or len(weight.const_value.shape) != 2:
            continue
        key = (weight.name or "").removesuffix(TRANSPOSED)
        form, factor = recipe.forms.get(key, "narrow"), recipe.inputs.get(key)
        build = _Builder(model, node)
        if factor is not None:
            x = build.add("Mul", x, _constant(model, f"{key}_input", factor))
        if form == "float":
            node.replace_input_with(0, x)
            continue
        if x not in tokens:
            tokens[x] = _quantise_tokens(model, build, x)
        product = _product(model, build, *tokens[x], weight, wide=form == "wide")
        _reroute(model, node.outputs[0], product)
        model.graph.remove(node, safe=True)


def _quantise_tokens(model: ir.Model, build: _Builder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """x (..., K) -> uint8 around 128 and the largest of each token (..., 1), which 127 stands for."""
    axis = _constant(model, "last_axis", np.array([-1], np.int64))
    smallest = _constant(model, "smallest_scale", np.array(SMALLEST_SCALE, np.float32))
    step = _constant(model, "step", np.array(1 / ACTIVATION_MAX, np.float32))
    largest = build.add("Max", build.add("ReduceMax", build.add("Abs", x), axis, keepdims=1), smallest)
    return build.add("QuantizeLinear", build.add("Div", x, largest), step, _zero_point(model)), largest


def _product(
    model: ir.Model, build: _Builder, q: ir.Value, largest: ir.Value, weight: ir.Value, *, wide: bool
) -> ir.Value:
    """The product of rounded tokens and a weight (K, N); wide: of both its roundings, added."""
    tensor = weight.const_value
    assert tensor is not None
    inputs, outputs = _shape(tensor)
    columns, suffix = (2 * outputs, "_wide") if wide else (outputs, "")

    def steps() -> np.ndarray:
        return round_weight(tensor.numpy(), wide=wide)

    def scale() -> np.ndarray:  # a step of the tokens is a 127th of their largest
        return weight_scale(tensor.numpy(), wide=wide) / np.float32(ACTIVATION_MAX)

    w = _weight(model, f"{weight.name}_int8{suffix}", ir.DataType.INT8, [inputs, columns], steps)
    s = _weight(model, f"{weight.name}_scale{suffix}", ir.DataType.FLOAT, [columns], scale)
    model.graph.opset_imports[_CONTRIB] = 1
    one = _constant(model, "one", np.array(1, np.float32))
    total = build.add("MatMulIntegerToFloat", q, w, one, s, _zero_point(model), domain=_CONTRIB)
    if wide:
        total = build.add("Add", *build.split(total))
    return build.add("Mul", total, largest)


def _zero_point(model: ir.Model) -> ir.Value:
    return _constant(model, "zero_point", np.array(_ZERO_POINT, np.uint8))


class Computed(ir.Tensor[np.ndarray]):
    """A tensor that is written in a way that fails with a reason: numpy's own only tells how much it could write."""

    def tofile(self, file: BinaryIO) -> None:
        """Write its bytes."""
        file.write(self.tobytes())


class _Builder:
    """Adds nodes before (or after) an anchor."""

    def __init__(self, model: ir.Model, anchor: ir.Node, after: bool = False) -> None:
        self._graph = model.graph
        self._anchor = anchor
        self._after = after

    def add(self, op: str, *inputs: ir.Value, domain: str = "", **attributes: int) -> ir.Value:
        return self._insert(ir.node(op, inputs, attributes, domain=domain))[0]

    def split(self, value: ir.Value) -> Sequence[ir.Value]:
        """The two halves of the last axis."""
        return self._insert(ir.node("Split", [value], {"axis": -1, "num_outputs": 2}, num_outputs=2))

    def _insert(self, node: ir.Node) -> Sequence[ir.Value]:
        for index, output in enumerate(node.outputs):
            output.name = f"{node.op_type}_{len(self._graph)}_{index}_{self._anchor.outputs[0].name}"
        if self._after:
            self._graph.insert_after(self._anchor, node)
        else:
            self._graph.insert_before(self._anchor, node)
        return node.outputs

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


def _half_of_bytes(model: ir.Model, build: _Builder, value: ir.Value) -> ir.Value:
    """A matrix (K, N) in float16, stored in 8 bits around zero with a scale per column."""
    tensor = value.const_value
    assert tensor is not None
    shape, name = _shape(tensor), value.name
    w = _weight(model, f"{name}_int8", ir.DataType.INT8, shape, lambda: round_full(tensor.numpy()))
    s = _weight(model, f"{name}_scale", ir.DataType.FLOAT16, shape[1:], lambda: full_scale(tensor.numpy()))
    half = build.add("DequantizeLinear", w, s, axis=1)
    half.dtype = ir.DataType.FLOAT16
    return half


def _constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    return _weight(model, name, ir.DataType.from_numpy(array.dtype), list(array.shape), lambda: array)


def _weight(
    model: ir.Model, name: str, dtype: ir.DataType, shape: list[int], make: Callable[[], np.ndarray]
) -> ir.Value:
    """An initializer whose values are computed when they are written; one per name."""
    known = model.graph.initializers.get(name)
    if known is not None:
        return known
    tensor = ir.LazyTensor(lambda: Computed(make(), name=name), dtype=dtype, shape=ir.Shape(shape), name=name)
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
