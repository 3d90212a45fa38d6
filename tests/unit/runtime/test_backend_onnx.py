from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from vllama.runtime.backend import open_backend
from vllama.runtime.errors import (
    BackendError,
    BackendUnavailableError,
    FileError,
    MissingFileError,
    ShapeError,
    SpecError,
)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """y = x @ w for x (n, 3)."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, (3, 2), np.arange(6, dtype=np.float32))
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "product",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 2))],
            [weights],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    path = tmp_path / "product.onnx"
    onnx.save(model, path)
    return path


def test_graph_runs_by_name_at_any_batch_size(graph: Path) -> None:
    backend = open_backend(graph, threads=1)
    for n in (1, 4):
        x = np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)
        expected = x @ np.arange(6, dtype=np.float32).reshape(3, 2)
        np.testing.assert_allclose(backend.run({"x": x})["y"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"z": np.zeros((1, 3), np.float32)},
        {"x": np.zeros((1, 4), np.float32)},
        {"x": np.zeros(3, np.float32)},
        {"x": np.zeros((1, 3), np.float64)},
    ],
)
def test_input_that_does_not_fit_is_refused_by_name(graph: Path, inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(ShapeError, match=r"product\.onnx"):
        open_backend(graph).run(inputs)


def test_closed_graph_says_so(graph: Path) -> None:
    backend = open_backend(graph)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="was closed"):
        backend.run({"x": np.zeros((1, 3), np.float32)})


def test_unusable_files_are_refused(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        open_backend(tmp_path / "none.onnx")
    graph.write_bytes(graph.read_bytes()[:40])
    with pytest.raises(FileError, match="not a usable ONNX graph") as error:
        open_backend(graph)
    assert "\n" not in str(error.value)


def test_device_that_is_not_there_is_named(graph: Path) -> None:
    with pytest.raises(SpecError, match="'tpu'"):
        open_backend(graph, "tpu")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(BackendUnavailableError, match="CUDAExecutionProvider"):
            open_backend(graph, "cuda")
