from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vllama.export.graphs import GraphName, empty_graph
from vllama.export.staging import record_files
from vllama.export.to_onnx import to_onnx
from vllama.export.to_tensorrt import EngineOptions, add_engines, is_current, open_builder
from vllama.runtime.bundle import Bundle
from vllama.runtime.manifest import SCHEMA, Manifest
from vllama.runtime.registry import find_spec, spec_to_dict
from vllama.runtime.spec import ModelSpec
from vllama.runtime.tensorrt import make_log

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not made for this system")
_NOISE = 10_000_019  # values, more than a matrix has; a prime, so that no two matrices are the same
_BLOCKS = 39  # of the vision encoder
_TARGET = EngineOptions(targets=("8.9",))


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return find_spec("video-llama-2-7b-chat")


def write(graph: GraphName, spec: ModelSpec, folder: Path) -> Path:
    """A graph of full size with random weights, as for a GPU."""
    empty, path = empty_graph(graph, spec), folder / f"{graph}.onnx"
    shapes = {name: tensor.shape for name, tensor in empty.state_dict().items()}
    noise = 0.02 * torch.randn(_NOISE, generator=torch.Generator().manual_seed(0))
    used = 0

    def read(name: str) -> Tensor:
        nonlocal used
        count = shapes[name].numel()
        start, used = used % (_NOISE - count), used + count
        return noise[start : start + count].reshape(shapes[name])

    to_onnx(empty, read, path, "fp16")
    return path


@pytest.mark.parametrize("graph", ["video", "clips", "audio"])
def test_engine_of_full_size_is_built(graph: GraphName, spec: ModelSpec, tmp_path: Path) -> None:
    path, builder = write(graph, spec, tmp_path), open_builder(_TARGET)
    files = record_files(tmp_path, (path.name, f"{path.name}.data"))
    manifest = Manifest(SCHEMA, spec.name, "", spec_to_dict(spec), "", {}, files, {graph: "fp16"}, {}, ())
    bundle, weights = Bundle(tmp_path, manifest, spec), files[f"{path.name}.data"].bytes
    made = add_engines(bundle, builder, lambda part, done, total: None, lambda cost: None)
    assert 0.9 * weights < made.manifest.engines[graph].bytes < 1.2 * weights
    assert is_current(made, graph, builder)


@pytest.mark.skipif(not os.environ.get("CI"), reason="writes 2 GB and takes a minute: with CI=1, as .ci/run sets it")
def test_vision_graph_of_full_size_is_taken(spec: ModelSpec, tmp_path: Path) -> None:
    """Its engine needs a minute and 8 GB: `tests/bench/bench_engines.py` builds it."""
    path, library = write("frames", spec, tmp_path), open_builder(_TARGET).library
    trt, log = library.module, make_log(library)
    factory = trt.Builder(log)
    network = factory.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse_from_file(str(path)), parser.get_error(0).desc()
    assert tuple(network.get_input(0).shape) == (-1, 3, 224, 224)
    assert tuple(network.get_output(0).shape) == (-1, 32, 768)
    kinds = [network.get_layer(index).type for index in range(network.num_layers)]
    assert kinds.count(trt.LayerType.SOFTMAX) >= _BLOCKS
    assert path.with_name("frames.onnx.data").stat().st_size > 2e9
