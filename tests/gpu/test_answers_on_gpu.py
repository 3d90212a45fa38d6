"""The miniature in fp16 on the GPU answers as in fp32 on the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vllama.export.mini.held_out import write_set
from vllama.runtime import Engine
from vllama.runtime.bundle import Bundle
from vllama.runtime.placement import Placement
from vllama.runtime.question_set import KnownAnswer, read_questions

_CLIPS = 20
_SAME = 0.99


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[KnownAnswer]:
    return read_questions(write_set(tmp_path_factory.mktemp("world"), _CLIPS))


@pytest.fixture(scope="session")
def on_cpu(
    exact_miniature: Bundle, questions: list[KnownAnswer], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    return answers(exact_miniature, questions, tmp_path_factory.mktemp("cpu"), "cpu", "onnx")


def test_answers_of_the_miniature_are_those_of_fp32_on_the_cpu(
    placement: Placement, built_miniature: Bundle, questions: list[KnownAnswer], on_cpu: list[str], tmp_path: Path
) -> None:
    found = answers(built_miniature, questions, tmp_path, placement.device, placement.runner)
    differing = [
        f"{each.question} {wanted!r}, on the GPU {said!r}"
        for each, wanted, said in zip(questions, on_cpu, found, strict=True)
        if wanted != said
    ]
    right = sum(each.is_right(said) for each, said in zip(questions, found, strict=True))
    print(f"{placement.runner}: {right} of {len(questions)} right, {len(differing)} differ from fp32 on the CPU")
    assert len(differing) <= (1 - _SAME) * len(questions), differing


def answers(bundle: Bundle, questions: list[KnownAnswer], cache: Path, device: str, runner: str) -> list[str]:
    """Greedy, each question by itself; the language model on the CPU, so that only the encoders differ."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLAMA_CACHE", str(cache))
        with Engine(bundle, device=device, runner=runner, gpu_layers=0) as engine:
            greedy = replace(engine.spec.llm.sampling, temperature=0.0)
            for each in questions:
                chat = engine.chat(engine.index(each.video, fps=0.0))
                *_, last = chat.ask(each.question, sampling=greedy, seed=0)
                assert last.usage is not None
                said.append(last.usage.answer)
    return said
