from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vllama.runtime.bundle import open_bundle, shipped_bundle
from vllama.runtime.llm.llama_context import UBATCH_CPU, UBATCH_GPU, Kv
from vllama.runtime.llm.llm_file import LlmFacts, read_llm_facts
from vllama.runtime.llm.quants import LlamaDimensions, quantised_facts
from vllama.runtime.machine import GpuMemory
from vllama.runtime.manifest import EngineRecord
from vllama.runtime.plan import (
    GraphNeed,
    _activations,
    compute_bytes,
    encoders_gpu_bytes,
    features_per_hour,
    gpu_bytes,
    graph_needs,
    kv_bytes,
    layers_that_fit,
    make_plan,
    usable_bytes,
    what_fits,
)
from vllama.runtime.registry import find_spec

MB = 1_000_000
# LLaMA-2-7B as Q4_K_M, and video-llama-2-7b-chat's int8 graphs: a third of the layers has two matrices in Q6_K.
WIDE = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31}
SEVEN = LlmFacts(
    n_vocab=32000, hidden_size=4096, num_heads=32, num_kv_heads=32, head_size=128,
    blocks=tuple(129_818_624 if layer in WIDE else 113_868_800 for layer in range(32)),
    embedding=73_728_000, output=107_536_384, largest=107_520_000,
)  # fmt: skip
GRAPHS = {
    "frames": GraphNeed(1208 * MB, 22 * MB, 1208 * MB),
    "clips": GraphNeed(91 * MB, 10 * MB, 91 * MB),
    "video": GraphNeed(44 * MB, 0, 44 * MB),
    "audio": GraphNeed(46 * MB, 0, 46 * MB),
}


def test_the_weights_are_those_of_the_file() -> None:
    assert SEVEN.weights == 4_080_263_168


def test_what_is_reckoned_from_an_entry_is_what_its_file_says() -> None:
    assert quantised_facts(LlamaDimensions(32000, 4096, 11008, 32, 32, 32), "Q4_K_M") == SEVEN


def test_a_position_of_the_kv_cache_is_k_and_v_of_every_layer() -> None:
    assert kv_bytes(SEVEN, 2048, "f16") == 1 << 30
    assert kv_bytes(SEVEN, 2048, "f32") == 2 << 30
    assert kv_bytes(SEVEN, 2048, "q8_0") == 544 << 20
    assert kv_bytes(SEVEN, 2000, "f16") == 1 << 30  # llama.cpp rounds up


@pytest.mark.parametrize(
    ("n_ctx", "n_ubatch", "kv", "seen"),
    [
        (1024, 128, "f16", 24.38),
        (2048, 128, "f16", 24.63),
        (2048, 32, "f16", 6.16),
        (2048, 512, "f16", 98.51),
        (4096, 512, "f16", 100.51),
        (2048, 128, "q8_0", 24.71),
        (2048, 128, "f32", 47.00),
    ],
)
def test_the_compute_buffer_is_near_what_llama_cpp_took(n_ctx: int, n_ubatch: int, kv: Kv, seen: float) -> None:
    assert 1.0 <= compute_bytes(SEVEN, n_ctx, kv, n_ubatch) / (seen * 2**20) < 1.2


@pytest.mark.parametrize("kv", ["f32", "f16", "q8_0"])
def test_llama_cpp_takes_what_is_foretold(kv: Kv) -> None:
    path = next(shipped_bundle().glob("*.gguf"))
    facts, found = read_llm_facts(path), _buffers(path, 600, kv)
    assert found["model"] == pytest.approx(facts.weights, rel=0.01)
    assert found["KV"] == pytest.approx(kv_bytes(facts, 600, kv), rel=0.01)
    assert 0.97 < compute_bytes(facts, 600, kv, UBATCH_CPU) / found["compute"] < 1.25


def _buffers(path: Path, n_ctx: int, kv: Kv) -> dict[str, float]:
    """What llama.cpp says of its buffers, in bytes."""
    script = f"""
import json, re, threading
from pathlib import Path
import llama_cpp.llama_cpp as library
from vllama.runtime.llm import llama_context, llama_library
opened = llama_library.load_library()
found = {{}}
def keep(level, text, _):
    if size := re.search(rb"(model|KV|compute) buffer size = +([0-9.]+) MiB", text):
        found[size[1].decode()] = float(size[2]) * 2**20
callback = library.llama_log_callback(keep)
library.llama_log_set(callback, None)
how = llama_context.LlmSettings(1, kv={kv!r})
llama_context.LlamaContext(Path({str(path)!r}), {n_ctx}, how, threading.Event()).close()
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=300)
    sizes: dict[str, float] = json.loads(done.stdout)
    return sizes


def test_a_gpu_gets_the_output_first_and_then_the_last_blocks() -> None:
    compute, copies = compute_bytes(SEVEN, 2048, "f16", 512), SEVEN.largest
    per_layer = (1 << 30) // 32
    assert gpu_bytes(SEVEN, 0, 2048, "f16") == 0
    assert gpu_bytes(SEVEN, 1, 2048, "f16") == SEVEN.output + compute + copies
    assert gpu_bytes(SEVEN, 2, 2048, "f16") == SEVEN.output + 129_818_624 + per_layer + compute + copies
    everything = SEVEN.output + sum(SEVEN.blocks) + (1 << 30) + compute
    assert gpu_bytes(SEVEN, 33, 2048, "f16") == everything == 5_200_338_944


@pytest.mark.parametrize(
    ("budget", "layers"),
    [(-1, 0), (0, 0), (335_000_000, 0), (336_000_000, 1), (2_000 * MB, 11), (4_000 * MB, 24), (5_200 * MB, 32),
     (5_201 * MB, 33), (80_000 * MB, 33)],
)  # fmt: skip
def test_as_many_layers_go_to_a_gpu_as_fit(budget: int, layers: int) -> None:
    assert layers_that_fit(SEVEN, 2048, "f16", budget) == layers
    assert layers == 0 or gpu_bytes(SEVEN, layers, 2048, "f16") <= budget


def test_a_smaller_cache_makes_room_for_layers() -> None:
    caches: tuple[tuple[int, Kv], ...] = ((4096, "f16"), (2048, "f16"), (2048, "q8_0"))
    few, more, most = (layers_that_fit(SEVEN, n_ctx, kv, 4_000 * MB) for n_ctx, kv in caches)
    assert few < more < most


def test_some_of_a_gpu_is_left_alone_and_its_own_needs_count_where_it_was_not_begun() -> None:
    small, large = GpuMemory("small", 4_000 * MB, 3_000 * MB), GpuMemory("large", 24_000 * MB, 23_000 * MB)
    assert usable_bytes([small], started=True) == 3_000 * MB - 256 * MB
    assert usable_bytes([large], started=True) == 23_000 * MB - 1_200 * MB
    assert usable_bytes([large], started=False) == 23_000 * MB - 1_200 * MB - 500 * MB
    assert usable_bytes([small, large], started=True) == 2_744 * MB + 21_800 * MB
    assert usable_bytes([GpuMemory("full", 4_000 * MB, 100 * MB)], started=True) == 0
    assert usable_bytes([], started=True) == 0


def test_the_whole_7b_with_sound_goes_to_a_gpu_of_8_gb() -> None:
    budget = usable_bytes([GpuMemory("RTX 4060", 8_188 << 20, 7_900 << 20)], started=True)
    plan = make_plan(SEVEN, GRAPHS, 2048, "f16", gpu_budget=budget, gpu_encoders=True)
    assert plan.gpu_layers == 33
    assert plan.gpu == encoders_gpu_bytes(GRAPHS) + gpu_bytes(SEVEN, 33, 2048, "f16") <= budget
    assert plan.ram_answering < 400 * MB


def test_encoders_on_a_gpu_keep_what_their_largest_batches_took() -> None:
    """Both stay open, and neither takes from the other."""
    weights = sum(need.gpu_weights for need in GRAPHS.values())
    alone = {name: need for name, need in GRAPHS.items() if name != "clips"}
    assert encoders_gpu_bytes(GRAPHS) == weights + 8 * (22 + 10) * MB + 256 * MB
    assert encoders_gpu_bytes(GRAPHS) - encoders_gpu_bytes(alone) == 91 * MB + 8 * 10 * MB


def test_a_gpu_without_memory_of_its_own_takes_that_of_the_machine() -> None:
    plan = make_plan(SEVEN, GRAPHS, 2048, "f16", gpu_budget=12_000 * MB)
    assert plan.gpu_layers == 33
    whole = plan.in_one_memory()
    assert whole.ram_encoding == plan.ram_encoding + plan.gpu > make_plan(SEVEN, GRAPHS, 2048, "f16").ram_encoding
    assert (whole.ram_indexing, whole.gpu) == (plan.ram_indexing, plan.gpu)


def test_what_does_not_go_to_the_gpu_stays_in_ram() -> None:
    alone = make_plan(SEVEN, GRAPHS, 2048, "f16")
    plan = make_plan(SEVEN, GRAPHS, 2048, "f16", gpu_budget=4_000 * MB, gpu_encoders=True)
    assert 0 < plan.gpu_layers < 33
    for name in ("LLM weights", "KV cache"):
        (here,), (there,) = ([part for part in each.parts if part.name == name] for each in (plan, alone))
        assert here.ram + here.gpu == there.ram
        assert there.gpu == 0
    assert plan.gpu <= 4_000 * MB


def test_each_use_counts_what_it_opens() -> None:
    plan = make_plan(SEVEN, GRAPHS, 2048, "f16")
    weights, cache, compute = SEVEN.weights, 1 << 30, compute_bytes(SEVEN, 2048, "f16", UBATCH_CPU)
    own = next(part.ram for part in plan.parts if part.name == "Python and libraries")
    assert plan.ram_answering == own + (44 + 46) * MB + weights + cache + compute
    assert plan.ram_indexing == own + (1230 + 101 + 44) * MB + 30 * MB
    assert plan.ram_encoding == plan.ram_answering + (1230 + 101) * MB + 30 * MB
    assert plan.gpu == plan.gpu_layers == 0


def test_the_least_change_that_fits_is_found() -> None:
    need = make_plan(SEVEN, GRAPHS, 2048, "f16").ram_encoding
    assert what_fits(SEVEN, GRAPHS, 2048, "f16", need) == ("f16", 2048)
    assert what_fits(SEVEN, GRAPHS, 2048, "f16", need - 1) == ("q8_0", 2048)
    small = make_plan(SEVEN, GRAPHS, 2048, "q8_0").ram_encoding
    assert what_fits(SEVEN, GRAPHS, 2048, "f16", small - 1) == ("q8_0", 1792)
    least = make_plan(SEVEN, GRAPHS, 512, "q8_0").ram_encoding
    assert what_fits(SEVEN, GRAPHS, 2048, "f16", least) == ("q8_0", 512)
    assert what_fits(SEVEN, GRAPHS, 2048, "f16", least - 1) is None


def test_the_graphs_of_a_bundle_count_with_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path))
    bundle = open_bundle(shipped_bundle())
    needs = graph_needs(bundle)
    assert set(needs) == {"frames", "clips", "video", "audio"}
    for name, need in needs.items():
        assert need.weights == sum(path.stat().st_size for path in bundle.folder.glob(f"{name}.onnx*"))
        assert need.gpu_weights == need.weights
    assert needs["frames"].activations > 0
    engine = EngineRecord(12_345, "", "", "tensorrt_rtx", "1", ("8.9",))
    built = replace(bundle, manifest=replace(bundle.manifest, engines={"frames": engine}))
    assert graph_needs(built) == {**needs, "frames": replace(needs["frames"], gpu_weights=12_345)}


def test_features_of_an_hour_are_pictures_and_half_overlapping_sound() -> None:
    spec = open_bundle(shipped_bundle()).spec
    assert spec.audio is not None
    picture = spec.video.qformer.query_tokens * spec.video.qformer.hidden_size
    sounds = 3600 / spec.audio.clip_seconds * 2 * spec.audio.encoder.output_size
    assert features_per_hour(spec, 2) == 2 * (3600 * picture + sounds)
    assert features_per_hour(spec, 4) == 4 * (3600 * picture + sounds)


def test_no_layers_go_to_a_gpu_that_llama_cpp_cannot_use() -> None:
    plan = make_plan(SEVEN, GRAPHS, 2048, "f16", gpu_budget=12_000 * MB, gpu_encoders=True, gpu_llm=False)
    assert (plan.gpu_layers, plan.gpu) == (0, encoders_gpu_bytes(GRAPHS))


def test_activations_of_the_full_size_are_what_is_planned_with_here() -> None:
    spec = find_spec("video-llama-2-7b-chat")
    assert {name: round(_activations(name, spec) / MB) for name in GRAPHS} == {
        name: need.activations // MB for name, need in GRAPHS.items()
    }


def test_ram_beside_a_gpu_is_that_of_the_larger_batches_there() -> None:
    plan = make_plan(SEVEN, GRAPHS, 2048, "f16", gpu_budget=12_000 * MB)
    (work,) = (part for part in plan.parts if part.name == "LLM at work")
    assert work.ram == compute_bytes(SEVEN, 2048, "f16", UBATCH_GPU)
