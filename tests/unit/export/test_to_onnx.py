from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from vllama.export.checkpoint import Part, build_graph
from vllama.export.graphs import Graph, empty_graph
from vllama.export.lent import is_matrix
from vllama.export.observe import observe
from vllama.export.recipe import plan
from vllama.export.to_onnx import compare, examples, to_onnx
from vllama.runtime.backend import open_backend
from vllama.runtime.backend_onnx import READY
from vllama.runtime.precision import Precision
from vllama.runtime.registry import spec_to_dict
from vllama.runtime.spec import ModelSpec

Made = Callable[..., tuple[Graph, Path]]
GRAPHS = {
    "frames": (["pixel_values"], "frame_features", "n"),
    "video": (["frame_features", "positions"], "embeds", "t"),
    "clips": (["fbank"], "clip_features", "n"),
    "audio": (["clip_features", "positions"], "embeds", "s"),
}


@pytest.fixture(scope="module")
def made(other_spec: ModelSpec, other_parts: dict[str, Part], tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A graph with random weights and other dimensions than the recorded ones, and its file; made once."""
    folder = tmp_path_factory.mktemp("graphs")
    done: dict[tuple[str, str], tuple[Graph, Path]] = {}

    def make(name: str, precision: Precision = "fp32") -> tuple[Graph, Path]:
        if (name, precision) not in done:
            path = folder / precision / f"{name}.onnx"
            path.parent.mkdir(exist_ok=True)
            export(other_parts[name], other_spec, path, precision)
            done[name, precision] = build_graph(other_parts[name], other_spec), path
        return done[name, precision]

    return make


def export(part: Part, spec: ModelSpec, path: Path, precision: Precision) -> None:
    graph, read, recipe = empty_graph(part.name, spec), part.state.__getitem__, None
    if precision == "int8" and graph.output != "embeds":
        _, seen = observe(graph, read, examples(graph, 2), 2)
        recipe = plan(graph, seen)
    to_onnx(graph, read, path, precision, recipe)


def outputs_of(graph: Graph, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        output: torch.Tensor = graph(*(torch.from_numpy(array) for array in inputs.values()))
    return output.numpy()


def inputs_of(graph: Graph, size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(size)
    return {each.name: rng.standard_normal(each.sized(size)).astype(np.float32) for each in graph.inputs}


def run(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    backend = open_backend(path)
    try:
        (output,) = backend.run(inputs).values()
    finally:
        backend.close()
    return output


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("frames", (1, 2, 3, 8, 32)), ("video", (1, 2, 8, 32, 256)), ("clips", (1, 2, 3, 8)), ("audio", (1, 2, 8, 64))],
)
def test_graph_gives_what_torch_gives_at_every_size(name: str, sizes: tuple[int, ...], made: Made) -> None:
    graph, path = made(name)
    for size in sizes:
        inputs = inputs_of(graph, size)
        wanted = outputs_of(graph, inputs)
        found = run(path, inputs)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-5, err_msg=f"{name} at {size}")


@pytest.mark.parametrize(
    ("name", "precision"),
    [(name, "fp32") for name in GRAPHS] + [("video", "fp16"), ("audio", "int8"), ("frames", "int8"), ("clips", "int8")],
)
def test_inputs_and_outputs_are_named_float_and_free_in_one_axis(name: str, precision: Precision, made: Made) -> None:
    graph, path = made(name, precision)
    saved = onnx.load(path, load_external_data=False).graph
    inputs, output, axis = GRAPHS[name]
    assert [value.name for value in saved.input] == inputs
    assert [value.name for value in saved.output] == [output]
    for value in (*saved.input, *saved.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    for value, each in zip(saved.input, graph.inputs, strict=True):
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        assert dims == [axis if size is None else size for size in each.shape]


@pytest.mark.parametrize(
    ("name", "precision", "cosine"),
    [("frames", "fp32", 0.9999999), ("video", "fp16", 0.99999), ("clips", "int8", 0.998), ("frames", "int8", 0.998)],
)
def test_comparison_with_torch_tells_how_far_it_is(name: str, precision: Precision, cosine: float, made: Made) -> None:
    graph, path = made(name, precision)
    inputs = examples(graph, 2)
    found = compare(path, inputs, outputs_of(graph, inputs))
    assert cosine <= found.cosine <= 1 + 1e-9
    assert (found.max_abs < 1e-5) == (precision == "fp32")
    assert (found.relative < 1e-5) == (precision == "fp32")


def test_comparison_notices_other_weights(made: Made) -> None:
    graph, path = made("audio")
    inputs = examples(graph, 2)
    other = outputs_of(graph, inputs)
    other[..., 3] += 0.25
    assert compare(path, inputs, other).max_abs == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize(("name", "atol"), [("frames", 0), ("clips", 2e-5)])
def test_int8_features_are_the_same_alone_and_among_others(name: str, atol: float, made: Made) -> None:
    graph, path = made(name, "int8")
    inputs = inputs_of(graph, 6)
    (key,) = inputs
    inputs[key][3] *= 50
    together = run(path, inputs)
    for number in range(6):
        alone = run(path, {key: inputs[key][number : number + 1]})
        # to the bit, but for the head of the sound: a float product of one row a clip
        np.testing.assert_allclose(together[number : number + 1], alone, rtol=0, atol=atol, err_msg=f"number {number}")


@pytest.mark.parametrize("name", ["frames", "clips"])
def test_int8_weights_of_the_file_are_within_63_and_every_matrix_is_one(name: str, made: Made) -> None:
    graph, path = made(name, "int8")
    stored = tensors(path)
    rounded = {key: array for key, array in stored.items() if array.dtype == np.int8}
    linears = [module for module in graph.modules() if isinstance(module, torch.nn.Linear)]
    assert len(rounded) >= len(linears) - 1  # the head of the sound is no MatMul
    for key, array in rounded.items():
        assert int(np.abs(array.astype(int)).max()) == 63, key


def test_small_graphs_store_halves_where_others_store_bytes(made: Made) -> None:
    types = {array.dtype for array in tensors(made("audio", "int8")[1]).values() if array.ndim == 2}
    assert np.dtype(np.float16) in types
    assert np.dtype(np.int8) not in types
    assert np.dtype(np.float32) not in types


@pytest.mark.parametrize(("name", "precision"), [("frames", "fp32"), ("frames", "int8"), ("clips", "int8")])
def test_large_weights_lie_outside_and_aligned(name: str, precision: Precision, made: Made) -> None:
    path = made(name, precision)[1]
    large = 0
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if tensor.data_location != TensorProto.EXTERNAL:
            assert len(tensor.raw_data) <= 1024, tensor.name
            continue
        assert place["location"] == f"{name}.onnx.data"
        if int(place["length"]) >= 4096:
            large += 1
            assert int(place["offset"]) % 4096 == 0, tensor.name
    assert large
    assert path.stat().st_size < 1 << 18


def test_files_tell_nothing_of_the_machine(made: Made) -> None:
    told = [str(Path.cwd()), sys.prefix, str(Path.home()), "site-packages", ".py", "torch.nn", "Traceback"]
    for name, precision in (("frames", "fp32"), ("frames", "int8"), ("clips", "int8"), ("video", "fp16")):
        raw = made(name, precision)[1].read_bytes()
        assert not [words for words in told if words.encode() in raw]


def test_same_weights_give_the_same_bytes_in_another_process(
    made: Made, other_spec: ModelSpec, other_parts: dict[str, Part], tmp_path: Path
) -> None:
    code = """
import json, sys
from pathlib import Path
from vllama.export.checkpoint import read_part
from vllama.export.graphs import empty_graph
from vllama.export.to_onnx import to_onnx
from vllama.runtime.registry import spec_from_dict

spec = spec_from_dict(json.loads(sys.argv[1]), "test")
part = read_part("audio", spec, Path(sys.argv[2]))
to_onnx(empty_graph("audio", spec), part.state.__getitem__, Path(sys.argv[3]), "int8")
"""
    folder, path = other_parts["audio"].sources[0].parent, tmp_path / "audio.onnx"
    arguments = (json.dumps(spec_to_dict(other_spec)), str(folder), str(path))
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env={**os.environ, "PYTHONHASHSEED": "7"})
    first, second = made("audio", "int8")[1], tmp_path / "audio.onnx"
    for suffix in ("", ".data"):
        digests = [hashlib.sha256(Path(f"{path}{suffix}").read_bytes()).hexdigest() for path in (first, second)]
        assert digests[0] == digests[1], f"audio.onnx{suffix}"


def test_progress_counts_the_bytes_of_the_weights(
    other_spec: ModelSpec, other_parts: dict[str, Part], tmp_path: Path
) -> None:
    steps: list[tuple[int, int]] = []
    graph, read = empty_graph("audio", other_spec), other_parts["audio"].state.__getitem__
    to_onnx(graph, read, tmp_path / "audio.onnx", "fp32", progress=lambda *step: steps.append(step))
    done, totals = [step[0] for step in steps], {step[1] for step in steps}
    assert done == sorted(done)
    assert totals == {done[-1]}
    weights = sum(tensor.numel() for tensor in other_parts["audio"].state.values())
    assert 4 * weights <= done[-1] < 5 * weights + 4096


@pytest.mark.parametrize(("name", "precision"), [("frames", "fp32"), ("clips", "int8"), ("video", "fp16")])
def test_matrices_are_read_when_their_turn_comes_and_not_before(
    name: str, precision: Precision, other_spec: ModelSpec, other_parts: dict[str, Part], tmp_path: Path
) -> None:
    state, happened = other_parts[name].state, list[str]()
    large = {key for key, tensor in state.items() if is_matrix(key, tensor) and tensor.numel() > 1024}

    def read(key: str) -> torch.Tensor:
        if key in large:
            happened.append(key)
        return state[key]

    def progress(done: int, total: int) -> None:
        happened.append("written")

    to_onnx(
        empty_graph(other_parts[name].name, other_spec), read, tmp_path / "graph.onnx", precision, progress=progress
    )
    assert happened[0] == "written", happened
    assert set(happened) == {"written", *large}
    assert max(len(list(run)) for key, run in groupby(happened) if key != "written") == 1


@pytest.mark.parametrize(("name", "precision"), [("frames", "fp32"), ("frames", "int8"), ("audio", "int8")])
def test_graph_that_runs_best_as_it_is_says_so(name: str, precision: Precision, made: Made) -> None:
    saved = onnx.load(made(name, precision)[1], load_external_data=False)
    assert {entry.key for entry in saved.metadata_props} == {READY}


def test_graph_of_halves_is_left_to_onnxruntime(made: Made) -> None:
    assert not onnx.load(made("video", "fp16")[1], load_external_data=False).metadata_props
