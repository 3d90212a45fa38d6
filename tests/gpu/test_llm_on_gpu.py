"""The language model with layers on a GPU, of whatever kind llama.cpp was built for: CUDA, Metal, Vulkan."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Vllama
from vllama.export.llama import open_llama
from vllama.export.mini.held_out import write_set
from vllama.export.to_gguf import to_gguf
from vllama.runtime import Engine, Usage
from vllama.runtime.bundle import shipped_bundle
from vllama.runtime.engine import GpuLayers
from vllama.runtime.llm import llama_library
from vllama.runtime.llm.backbone import Backbone
from vllama.runtime.llm.devices import gpu_memory
from vllama.runtime.question_set import KnownAnswer, read_questions
from vllama.runtime.spec import ModelSpec
from vllama.runtime.types import Embeds

_CLIPS = 20
_SAME = 0.99
_RELATIVE = 0.02  # L2 of logits, of products in fp16
_DEMO = Path(__file__).parents[2] / "cli" / "demo_clips" / "circle.mp4"
_QUESTIONS = ("What happens?", "What does the star do?")


@pytest.fixture(scope="module", params=[1, 3, "all"], ids=lambda layers: f"llama-{layers}")
def layers(request: pytest.FixtureRequest) -> GpuLayers:
    """The output matrix alone, some blocks, everything."""
    if not gpu_memory():
        pytest.skip("llama.cpp finds no GPU, or was built without support for it")
    asked: GpuLayers = request.param
    return asked


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLAMA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def engine(layers: GpuLayers) -> Iterator[Engine]:
    """The miniature that ships, encoders on the CPU."""
    with Engine.open(shipped_bundle(), device="cpu", gpu_layers=layers) as opened:
        yield opened


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[KnownAnswer]:
    return read_questions(write_set(tmp_path_factory.mktemp("world"), _CLIPS))


@pytest.fixture(scope="module")
def on_cpu(questions: list[KnownAnswer]) -> list[str]:
    with Engine.open(shipped_bundle(), device="cpu", gpu_layers=0) as engine:
        return answers(engine, questions)


def test_recorded_chats_have_the_logits_of_the_original(
    layers: GpuLayers,
    vicuna_spec: ModelSpec,
    tiny_weights: Path,
    reference: Path,
    golden: Callable[[str], dict[str, np.ndarray]],
    tmp_path: Path,
) -> None:
    path = tmp_path / "llm.gguf"
    to_gguf(open_llama(vicuna_spec, tiny_weights), vicuna_spec, path, "F32")
    cases = json.loads((reference / "tiny" / "golden" / "chat_cases.json").read_text("utf-8"))
    worst = 0.0
    with Backbone(path, vicuna_spec.llm.n_ctx, gpu_layers=99 if layers == "all" else int(layers)) as backbone:
        for name, case in cases.items():
            arrays = golden(f"chat_{name}")
            for turn, row in enumerate(case["turns"]):
                read = Embeds(arrays[f"turn{turn}_inputs_embeds"][0], "video")
                for step, wanted in enumerate(arrays[f"turn{turn}_step_logits"]):
                    backbone.prefill([read, row["output_ids"][:step]])
                    found = backbone.logits()
                    worst = max(worst, float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)))
    print(f"logits of {len(cases)} recorded chats: relative error {worst:.4f} at most")
    assert worst < _RELATIVE


def test_answers_of_the_miniature_are_those_of_the_cpu(
    engine: Engine, questions: list[KnownAnswer], on_cpu: list[str]
) -> None:
    found = answers(engine, questions)
    differing = [
        f"{each.question} {wanted!r}, on the GPU {said!r}"
        for each, wanted, said in zip(questions, on_cpu, found, strict=True)
        if wanted != said
    ]
    print(f"{len(questions)} questions, {len(differing)} answered otherwise than on the CPU")
    assert len(differing) <= (1 - _SAME) * len(questions), differing


def test_prompt_that_was_kept_is_gone_on_with_on_the_gpu_and_not_on_the_cpu(engine: Engine) -> None:
    timeline = engine.index(_DEMO, fps=0.0)
    first = engine.chat(timeline)
    first.prepare(keep=True)
    whole = asked(engine, _QUESTIONS[0])
    for layers, restored in ((engine.gpu_layers, True), (0, False)):
        with Engine.open(shipped_bundle(), device="cpu", gpu_layers=layers) as other:
            again = asked(other, _QUESTIONS[0])
        assert (again.prefilled_tokens < again.prompt_tokens // 2) == restored
        if restored:
            assert (again.answer, again.prompt_tokens) == (whole.answer, whole.prompt_tokens)


def test_answer_that_is_stopped_ends_and_the_next_is_whole(engine: Engine) -> None:
    chat = engine.chat(engine.index(_DEMO, fps=0.0))
    greedy = replace(engine.spec.llm.sampling, temperature=0.0)
    answer = chat.ask(_QUESTIONS[0], sampling=greedy, seed=0)
    next(answer)
    chat.cancel()
    *_, last = answer
    assert last.usage is not None
    assert last.usage.finish == "cancelled"
    chat.clear()
    *_, last = chat.ask(_QUESTIONS[1], sampling=greedy, seed=0)
    assert last.usage is not None
    assert last.usage.answer == asked(engine, _QUESTIONS[1]).answer


@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_record_is_replayed_to_the_token_and_the_cpu_says_where_it_was_made(
    kv: str, layers: GpuLayers, vllama: Vllama, tmp_path: Path
) -> None:
    path = tmp_path / "record.jsonl"
    how = ("--device", "cpu", "--gpu-layers", layers, "--kv", kv, "--temperature", "0.7", "--record", path)
    done = vllama("ask", _DEMO, *_QUESTIONS, "-m", "miniature", *how)
    assert done.returncode == 0, done.stderr
    assert json.loads(path.read_text("utf-8").splitlines()[0])["gpu_layers"] == (5 if layers == "all" else layers)
    again = vllama("replay", path)
    assert (again.returncode, again.stderr.count("same: "), "note" in again.stderr) == (0, 2, False), again.stderr
    on_cpu = vllama("replay", path, "--gpu-layers", 0)
    assert "answered with 0 layers on the GPU, recorded with " in on_cpu.stderr


def test_llama_cpp_takes_a_gpu_for_layers_alone() -> None:
    if not gpu_memory():
        pytest.skip("llama.cpp finds no GPU, or was built without support for it")
    library, said = llama_library.load_library(), list[str]()
    told = library.llama_log_callback(lambda level, text, _: said.append(text.decode("utf-8", "replace")))
    library.llama_log_set(told, None)
    try:
        for layers in (0, 1):
            said.clear()
            Backbone(shipped_bundle().joinpath("llm-Q8_0.gguf"), 256, gpu_layers=layers).close()
            assert any("using device" in line for line in said) == (layers > 0), said
    finally:
        library.llama_log_set(llama_library._log_callback(library), None)


def test_memory_of_the_gpu_is_given_back(layers: GpuLayers) -> None:
    def free() -> int:
        with Engine.open(shipped_bundle(), device="cpu", gpu_layers=layers) as engine:
            asked(engine, _QUESTIONS[0])
        return sum(gpu.free for gpu in gpu_memory())

    first, *others = (free() for _ in range(4))
    assert max(others) > first - 8e6  # others may take some of it at any time, a leak takes some each time


def answers(engine: Engine, questions: list[KnownAnswer]) -> list[str]:
    return [asked(engine, each.question, Path(each.video)).answer for each in questions]


def asked(engine: Engine, question: str, clip: Path = _DEMO) -> Usage:
    """Greedy, in a conversation of its own."""
    greedy = replace(engine.spec.llm.sampling, temperature=0.0)
    *_, last = engine.chat(engine.index(clip, fps=0.0)).ask(question, sampling=greedy, seed=0)
    assert last.usage is not None
    return last.usage
