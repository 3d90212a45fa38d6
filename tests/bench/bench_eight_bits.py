"""Weights in 8 bits for TensorRT for RTX, int8 and fp8: what rounding costs, and which cards an engine can be for.

    python tests/bench/bench_eight_bits.py [--size 1408]

One product with normal weights, a scale per column, as `--precision w8a16` stores them. Needs no GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vllama.export.to_tensorrt import Builder, EngineOptions, _built, open_builder
from vllama.runtime.errors import BackendError

# By name: the largest value, how it is held here and in a graph.
KINDS: dict[str, tuple[float, Any, int]] = {
    "int8": (127.0, np.int8, TensorProto.INT8),
    "fp8 (e4m3)": (448.0, ml_dtypes.float8_e4m3fn, TensorProto.FLOAT8E4M3FN),
}
ROWS = 64


def main() -> None:
    """A line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=1408, help="of the square matrix; 1408 is the ViT's width")
    size = parser.parse_args().size
    rng = np.random.default_rng(1)
    weights, inputs = (rng.standard_normal((rows, size), np.float32) for rows in (size, ROWS))
    exact = inputs @ weights
    every = open_builder(EngineOptions())
    print(f"{every.library.name} {every.library.version}, a product of {size} x {size} normal weights")
    for kind, (most, dtype, stored_as) in KINDS.items():
        scale = np.abs(weights).max(0) / most
        stored = (np.round(weights / scale) if kind == "int8" else weights / scale).astype(dtype)
        error = np.linalg.norm(inputs @ (stored.astype(np.float32) * scale) - exact) / np.linalg.norm(exact)
        builds = {each: built(stored, scale, stored_as, Builder(every.library, (each,))) for each in every.targets}
        print(f"{kind}: error {100 * error:.2f} %;", ", ".join(f"{each} {what}" for each, what in builds.items()))


def built(stored: np.ndarray, scale: np.ndarray, stored_as: int, builder: Builder) -> str:
    """The size of the engine, or that there is none."""
    size = len(stored)
    constants = [
        helper.make_tensor("stored", stored_as, stored.shape, stored.tobytes(), raw=True),
        numpy_helper.from_array(scale.astype(np.float16), "scale"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["stored", "scale"], ["weights"], axis=1),
        helper.make_node("MatMul", ["x", "weights"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n", size]) for name in "xy")
    graph = helper.make_graph(nodes, "product", [x], [y], constants)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
        try:
            return f"{memoryview(_built(builder, path, [(1, 8, ROWS)], lambda fraction: None)).nbytes} bytes"
        except BackendError:
            return "refused"


if __name__ == "__main__":
    main()
