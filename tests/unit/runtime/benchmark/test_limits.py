from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from vllama.runtime.backend import open_backend
from vllama.runtime.benchmark import limits
from vllama.runtime.benchmark.limits import best_seconds, processor_name, product_graph


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_graph_written_by_hand_is_onnx_and_computes_the_product(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "product.onnx"
    path.write_bytes(product_graph(kind, 300, 5))  # type: ignore[arg-type]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    x = np.random.default_rng(0).integers(0, 256, (4, 300)).astype(np.float32)
    backend = open_backend(path, threads=1)
    (found,) = backend.run({"x": x}).values()
    np.testing.assert_array_equal(found, np.repeat(x.sum(axis=1, keepdims=True), 5, axis=1))


def test_int8_graph_multiplies_in_int8(tmp_path: Path) -> None:
    path = tmp_path / "product.onnx"
    path.write_bytes(product_graph("int8", 8, 2))
    assert [node.op_type for node in onnx.load(path).graph.node] == ["Cast", "MatMulInteger"]


def test_first_call_does_not_count_and_one_more_is_always_made() -> None:
    calls: list[int] = []
    assert 0.0 <= best_seconds(lambda: calls.append(1), 0.0) < 1.0
    assert len(calls) == 2


def test_processor_has_a_name() -> None:
    assert processor_name()


def test_macos_tells_the_name_of_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"machdep.cpu.brand_string": "Apple M2"}
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(limits, "read_sysctl", lambda name: said.get(name, ""))
    assert processor_name() == "Apple M2"
    said.clear()
    assert processor_name()
