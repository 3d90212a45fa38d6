"""A KV cache of half the size: the same answers, and never the state of another."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from vllama.runtime import Chat, Engine, Usage
from vllama.runtime.llm.llama_context import Kv

# Of each clip that is shipped: a question, and what a right answer says.
QUESTIONS = {
    "circle": ("How many beeps do you hear?", "What happens first?"),
    "square": ("What colour is the square?", "Does the sound rise or fall?"),
    "cross": ("How many things are there?", "Which way does the cross move?"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path))
    return tmp_path


def ask(chat: Chat, engine: Engine, question: str) -> Usage:
    *_, last = chat.ask(question, sampling=replace(engine.spec.llm.sampling, temperature=0.0), seed=0)
    assert last.usage is not None
    return last.usage


def opened(kv: Kv | None) -> Engine:
    return Engine.open("miniature", kv=kv)


def demo(name: str) -> Path:
    return Path(str(files("vllama.cli").joinpath("demo_clips", f"{name}.mp4")))


def test_greedy_answers_are_the_same_with_a_smaller_cache() -> None:
    answers: dict[Kv, list[str]] = {}
    for kv in ("f16", "q8_0"):
        with opened(kv) as engine:
            assert engine.kv == kv
            chats = {name: engine.chat(engine.index(demo(name), fps=0.0)) for name in QUESTIONS}
            answers[kv] = [ask(chats[name], engine, each).answer for name, asked in QUESTIONS.items() for each in asked]
    assert answers["q8_0"] == answers["f16"]
    assert all(answers["f16"])


def test_a_kept_prefix_is_not_used_by_a_cache_of_another_kind(cache: Path) -> None:
    with opened("f16") as engine:
        timeline = engine.index(demo("square"), fps=0.0)
        plain = ask(engine.chat(timeline), engine, "What?")
        engine.chat(timeline).prepare(keep=True)
    assert len(list((cache / "prefixes").iterdir())) == 1
    with opened("f16") as engine:
        assert ask(engine.chat(timeline), engine, "What?").prefilled_tokens < plain.prefilled_tokens
    with opened("q8_0") as engine:
        usage = ask(engine.chat(timeline), engine, "What?")
        assert usage.prefilled_tokens == plain.prefilled_tokens == usage.prompt_tokens
        engine.chat(timeline).prepare(keep=True)
    kept = list((cache / "prefixes").iterdir())
    assert [path.name.partition("-")[0] for path in kept] == [timeline.content[:32]] * 2


def test_a_bundle_with_rounded_weights_has_an_f16_cache() -> None:
    with opened(None) as engine:
        assert engine.kv == "f16"
