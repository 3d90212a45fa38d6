from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from vllama.export.precision import fold_transposes, lower
from vllama.export.recipe import Form, Recipe
from vllama.runtime.backend import open_backend
from vllama.runtime.precision import Precision

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((6, 70)).astype(np.float32)  # (out, in) as torch keeps it
BIAS = RNG.standard_normal(6).astype(np.float32)
X = RNG.standard_normal((3, 4, 70)).astype(np.float32)
FACTOR = RNG.uniform(0.1, 10, 70).astype(np.float32)


def linear(weight: np.ndarray = WEIGHT, bias: np.ndarray = BIAS) -> ir.Model:
    """y = x W^T + b the way it is traced, and z = a second product of the same x."""
    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "wt"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["y"]),
        helper.make_node("MatMul", ["x", "wt"], ["z"]),
    ]
    size = ["n", "t"]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*size, weight.shape[1]])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [*size, len(weight)]) for name in ("y", "z")],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.serde.deserialize_model(model)


def attention() -> ir.Model:
    """y = x x^T: a product without a constant."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["xt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "xt"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "t", 70])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "t", "t"])
    graph = helper.make_graph(nodes, "attention", [x], [y])
    return ir.serde.deserialize_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )


def lowered(precision: Precision, recipe: Recipe | None = None, weight: np.ndarray = WEIGHT) -> ir.Model:
    model = linear(weight)
    fold_transposes(model)
    lower(model, precision, recipe)
    return model


def ran(model: ir.Model, folder: Path, x: np.ndarray = X) -> dict[str, np.ndarray]:
    ir.save(model, folder / "model.onnx")
    backend = open_backend(folder / "model.onnx")
    try:
        return backend.run({"x": x})
    finally:
        backend.close()


def written(model: ir.Model, folder: Path) -> dict[str, np.ndarray]:
    ir.save(model, folder / "model.onnx")
    initializers = onnx.load(folder / "model.onnx").graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in initializers}


def operations(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_folded_transposes_keep_the_values_and_leave_no_copy(tmp_path: Path) -> None:
    before = ran(linear(), tmp_path)
    model = linear()
    fold_transposes(model)
    assert operations(model) == ["MatMul", "Add", "MatMul"]
    weights = written(model, tmp_path)
    assert sorted(array.shape for array in weights.values()) == [(6,), (70, 6)]
    for name, array in ran(model, tmp_path).items():
        np.testing.assert_array_equal(array, before[name])


def test_transposes_of_activations_stay(tmp_path: Path) -> None:
    model = attention()
    fold_transposes(model)
    assert operations(model) == ["Transpose", "MatMul"]


def test_fp32_changes_nothing() -> None:
    model = linear()
    fold_transposes(model)
    before = operations(model)
    lower(model, "fp32")
    assert operations(model) == before
    assert {value.dtype for value in model.graph.initializers.values()} == {ir.DataType.FLOAT}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_int8_weights_stay_within_63_in_the_file(scale: float, tmp_path: Path) -> None:
    weights = written(lowered("int8", Recipe(), weight=WEIGHT * np.float32(scale)), tmp_path)
    (rounded,) = [array for array in weights.values() if array.dtype == np.int8]
    assert (np.abs(rounded).max(0) == 63).all()
    (steps,) = [array for name, array in weights.items() if name.endswith("_scale") and array.shape == (6,)]
    steps = 127 * steps  # a step of the tokens is a 127th of their largest, and is in the file's scale too
    np.testing.assert_allclose(rounded * steps, WEIGHT.T * scale, atol=0.51 * steps.max())
    assert not [array for array in weights.values() if array.dtype == np.float32 and array.size == WEIGHT.size]


def test_int8_products_are_near_and_share_one_rounding_of_their_input(tmp_path: Path) -> None:
    model = lowered("int8", Recipe())
    assert operations(model).count("MatMulIntegerToFloat") == 2
    assert operations(model).count("QuantizeLinear") == 1
    outputs = ran(model, tmp_path)
    for name, wanted in (("y", X @ WEIGHT.T + BIAS), ("z", X @ WEIGHT.T)):
        assert outputs[name].dtype == np.float32
        assert np.linalg.norm(outputs[name] - wanted) < 0.02 * np.linalg.norm(wanted)


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(forms={"w": "wide"}), Recipe(inputs={"w": FACTOR})])
def test_int8_token_is_the_same_to_the_bit_whatever_is_beside_it(recipe: Recipe, tmp_path: Path) -> None:
    model = lowered("int8", recipe)
    alone = ran(model, tmp_path, X[:1, :1])["y"]
    loud = X.copy()
    loud[:, 1:] *= 1000
    loud[1:] = 0
    np.testing.assert_array_equal(ran(model, tmp_path, X)["y"][:1, :1], alone)
    np.testing.assert_array_equal(ran(model, tmp_path, loud)["y"][:1, :1], alone)


def test_int8_token_and_channel_of_zeros_stay_zero(tmp_path: Path) -> None:
    weight, x = WEIGHT.copy(), X.copy()
    weight[2], x[0, 1] = 0, 0
    outputs = ran(lowered("int8", Recipe(), weight=weight), tmp_path, x)
    np.testing.assert_array_equal(outputs["z"][..., 2], 0)
    np.testing.assert_array_equal(outputs["y"][0, 1], BIAS)
    assert np.isfinite(outputs["y"]).all()


def test_wide_products_keep_both_roundings_within_63_and_err_by_the_tokens_alone(tmp_path: Path) -> None:
    model = lowered("int8", Recipe(forms={"w": "wide"}))
    assert operations(model).count("MatMulIntegerToFloat") == 2
    (rounded,) = [array for array in written(model, tmp_path).values() if array.dtype == np.int8]
    assert rounded.shape == (70, 12)
    assert (np.abs(rounded).max(0) <= 63).all()
    found, wanted = ran(model, tmp_path)["z"], X @ WEIGHT.T
    tokens = np.abs(X).max(-1, keepdims=True) / 127
    rounded_tokens = np.rint(X / tokens) * tokens
    np.testing.assert_allclose(found, rounded_tokens @ WEIGHT.T, atol=6e-3)
    narrow = ran(lowered("int8", Recipe()), tmp_path)["z"]
    assert np.linalg.norm(found - wanted) < 0.8 * np.linalg.norm(narrow - wanted)


def test_float_products_are_not_rounded(tmp_path: Path) -> None:
    model = lowered("int8", Recipe(forms={"w": "float"}))
    assert operations(model) == ["MatMul", "Add", "MatMul"]
    np.testing.assert_allclose(ran(model, tmp_path)["z"], X @ WEIGHT.T, atol=1e-5)


@pytest.mark.parametrize("form", ["narrow", "float"])
def test_factor_of_an_input_is_applied_before_it_is_rounded(form: Form, tmp_path: Path) -> None:
    loud = X / FACTOR
    recipe = Recipe(inputs={"w": FACTOR}, forms={"w": form})
    found, wanted = ran(lowered("int8", recipe), tmp_path, loud)["z"], X @ WEIGHT.T
    assert np.linalg.norm(found - wanted) < 0.02 * np.linalg.norm(wanted)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_products_of_two_activations_are_still_right(precision: Precision, tmp_path: Path) -> None:
    model = attention()
    lower(model, precision, Recipe())
    assert "MatMulIntegerToFloat" not in operations(model)
    np.testing.assert_allclose(ran(model, tmp_path)["y"], X @ X.transpose(0, 2, 1), rtol=0, atol=0.2)


def test_fp16_multiplies_halves_and_keeps_inputs_and_outputs_wide(tmp_path: Path) -> None:
    model = lowered("fp16")
    for node in model.graph:
        if node.op_type == "MatMul":
            assert {value.dtype for value in node.inputs if value is not None} == {ir.DataType.FLOAT16}
    outputs = ran(model, tmp_path)
    saved = onnx.load(tmp_path / "model.onnx").graph
    for value in (*saved.input, *saved.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT, value.name
    assert [value.name for value in saved.output] == ["y", "z"]
    weights = {tensor.name: numpy_helper.to_array(tensor).dtype for tensor in saved.initializer}
    assert set(weights.values()) == {np.dtype(np.float16), np.dtype(np.float32)}
    assert weights["b"] == np.float32
    for name, wanted in (("y", X @ WEIGHT.T + BIAS), ("z", X @ WEIGHT.T)):
        assert outputs[name].dtype == np.float32
        np.testing.assert_allclose(outputs[name], wanted, atol=0.05)


def test_small_graphs_only_store_their_matrices_narrow(tmp_path: Path) -> None:
    model = lowered("int8")
    weights = written(model, tmp_path)
    assert {array.dtype: array.shape for array in weights.values()} == {
        np.dtype(np.float16): (70, 6),
        np.dtype(np.float32): (6,),
    }
    half = WEIGHT.astype(np.float16).astype(np.float32)
    exact = linear(half)
    for name, array in ran(exact, tmp_path).items():
        np.testing.assert_allclose(ran(model, tmp_path)[name], array, rtol=0, atol=1e-5)


def gemm() -> ir.Model:
    """y = x W^T + b in one product, whose matrix is stored (out, in)."""
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 70])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(BIAS, "b")],
    )
    return ir.serde.deserialize_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )


def test_matrix_that_is_not_stored_by_column_has_no_8_bits(tmp_path: Path) -> None:
    model = gemm()
    lower(model, "w8a16")
    assert {array.dtype for array in written(model, tmp_path).values()} == {np.dtype(np.float16)}
    np.testing.assert_allclose(ran(model, tmp_path, X[0])["y"], X[0] @ WEIGHT.T + BIAS, atol=0.05)


def test_bias_of_a_product_with_one_stays_wide_in_small_graphs(tmp_path: Path) -> None:
    model = gemm()
    lower(model, "int8")
    weights = written(model, tmp_path)
    assert {array.shape: array.dtype for array in weights.values()} == {(6, 70): np.float16, (6,): np.float32}
    half = WEIGHT.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(ran(model, tmp_path, X[0])["y"], X[0] @ half.T + BIAS, rtol=0, atol=1e-5)


def test_weights_of_8_bits_use_all_of_them_and_widen_to_halves(tmp_path: Path) -> None:
    model = lowered("w8a16")
    assert operations(model).count("DequantizeLinear") == 2, "one for each product; they share the stored matrix"
    weights = written(model, tmp_path)
    (rounded,) = [array for array in weights.values() if array.dtype == np.int8]
    (scale,) = [array for array in weights.values() if array.dtype == np.float16]
    assert (np.abs(rounded).max(0) >= 126).all()
    np.testing.assert_allclose(rounded * scale.astype(np.float32), WEIGHT.T, atol=0.52 * float(scale.max()))
    assert not [name for name in weights if "zero" in name], "TensorRT takes no zero point but zero"
    found, exact = ran(model, tmp_path), ran(linear(), tmp_path)
    for name, array in exact.items():
        error = np.linalg.norm(found[name] - array) / np.linalg.norm(array)
        assert 1e-4 < error < 0.01, (name, error)
