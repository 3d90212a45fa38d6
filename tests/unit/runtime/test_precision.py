from __future__ import annotations

from pathlib import Path

import pytest

from vllama.export.graphs import empty_graph, graph_names
from vllama.runtime.bundle import read_bundle, shipped_bundle
from vllama.runtime.errors import SpecError
from vllama.runtime.precision import check_precision, graph_bytes
from vllama.runtime.registry import read_specs

MB = 1_000_000
FULL = "video-llama-2-7b-chat"


@pytest.mark.parametrize("name", ["video-llama-2-7b-chat", "video-llama-vicuna-13b", "miniature"])
def test_in_float32_every_weight_of_a_published_model_counts(name: str) -> None:
    spec = read_specs()[name]
    found = graph_bytes(spec, "fp32")
    assert sorted(found) == sorted(graph_names(spec))
    for graph in graph_names(spec):
        wanted = 4 * sum(tensor.numel() for tensor in empty_graph(graph, spec).state_dict().values())
        assert found[graph] == pytest.approx(wanted, rel=1e-4 if name != "miniature" else 1e-3), graph  # K has no bias


@pytest.mark.parametrize(
    ("graph", "made"), [("frames", 1208 * MB), ("clips", 91 * MB), ("video", 44 * MB), ("audio", 46 * MB)]
)
def test_in_int8_a_full_size_graph_is_what_an_export_has_written(graph: str, made: int) -> None:
    assert graph_bytes(read_specs()[FULL], "int8")[graph] == pytest.approx(made, rel=0.04)


def test_halves_take_half_and_bytes_a_quarter_of_the_matrices() -> None:
    spec = read_specs()[FULL]
    full, half, byte = (graph_bytes(spec, precision)["frames"] for precision in ("fp32", "fp16", "w8a16"))
    assert half / full == pytest.approx(0.5, abs=0.01)
    assert byte / full == pytest.approx(0.25, abs=0.01)


def test_the_files_of_a_bundle_are_as_large_as_reckoned(tiny_bundle: Path) -> None:
    for folder, precision in ((tiny_bundle, "fp32"), (shipped_bundle(), "int8")):
        bundle = read_bundle(folder)
        assert bundle.manifest.precision["frames"] == precision
        for graph, size in graph_bytes(bundle.spec, check_precision(precision)).items():
            written = sum(path.stat().st_size for path in folder.glob(f"{graph}.onnx*"))
            assert 0.7 < size / written < 1.02, (folder, graph)  # so small, padding and the graph itself weigh much


def test_a_precision_that_is_none_is_said() -> None:
    with pytest.raises(SpecError, match=r"^precision 'int4' is not known; use one of fp32, fp16, int8, w8a16$"):
        check_precision("int4")
