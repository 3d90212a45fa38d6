from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vllama.runtime import BackendError, Engine, Span, SpecError, Timeline
from vllama.runtime.capture.clock import Clock
from vllama.runtime.types import Float32


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.open("miniature", device="cpu", threads=1, answers=False) as engine:
        yield engine


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"threads": 0}, "threads is 0; use 1 to 512"),
        ({"threads": -3}, "threads is -3; use 1 to 512"),
        ({"threads": 513}, "threads is 513; use 1 to 512"),
        ({"threads": 1.5}, "threads is 1.5; use 1 to 512"),
        ({"n_ctx": 300.0}, "n_ctx is 300.0; use 2 to 1048576"),
        ({"n_ctx": 0}, "n_ctx is 0; use 2 to 1048576"),
        ({"n_ctx": 1 << 21}, "n_ctx is 2097152; use 2 to 1048576"),
        ({"gpu_layers": "everything"}, "gpu_layers is 'everything'; use 'auto', 'all', or a number from 0 on"),
        ({"gpu_layers": -1}, "gpu_layers is -1; use 'auto', 'all', or a number from 0 on"),
        ({"kv": "q4_0"}, "kv is 'q4_0'; use f32, f16, q8_0"),
    ],
)
def test_setting_that_is_none_is_refused(settings: dict[str, Any], said: str, answers: bool) -> None:
    with pytest.raises(SpecError) as error:
        Engine.open("miniature", device="cpu", answers=answers, **settings)
    assert str(error.value) == said


def test_engine_says_how_its_language_model_runs() -> None:
    with Engine.open("miniature", device="cpu", threads=1, n_ctx=300, gpu_layers=0) as engine:
        assert (engine.n_ctx, engine.gpu_layers, engine.backbone.n_ctx) == (300, 0, 300)
        assert Engine.open("miniature", device="cpu", answers=False).n_ctx == engine.spec.llm.n_ctx


def test_engine_that_only_indexes_has_no_language_model(engine: Engine) -> None:
    assert engine.gpu_layers == 0
    with pytest.raises(SpecError, match="answers=False"):
        _ = engine.backbone


def test_nothing_is_encoded_after_the_end(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path))
    engine = Engine.open("miniature", device="cpu", threads=1, answers=False)
    engine.close()
    engine.close()
    with pytest.raises(BackendError, match="the encoders were closed; open the model again"):
        engine.index(clip, fps=0.0)


def test_a_conversation_says_that_its_engine_was_closed() -> None:
    with Engine.open("miniature", device="cpu", threads=1, n_ctx=300) as engine:
        blank = Timeline(engine.bundle.encoders_hash, "", "video", 0, 1.0, 1.0, sound=False)
        chat, begun = engine.chat(blank), engine.chat(blank)
        list(begun.ask("Hello?"))
        llama = engine.backbone._llama
    llama._lib = None  # type: ignore[assignment]  # a call that came through to it would end the process
    for use in (
        lambda: list(chat.ask("Hello?")),
        lambda: list(begun.ask("And?")),
        lambda: chat.prepare(),
        lambda: begun.last_prompt,
        lambda: engine.yes_no("Is it?", blank),
        lambda: list(engine.chat(blank).ask("Hello?")),
    ):
        with pytest.raises(BackendError) as error:
            use()
        assert str(error.value) == "the language model was closed; open it again"
    assert len(begun.turns) == 1


def test_a_score_of_what_a_clip_does_not_have_is_refused_as_a_question_is() -> None:
    with Engine.open("miniature", device="cpu", threads=1, n_ctx=300) as engine:
        blank = Timeline(engine.bundle.encoders_hash, "", "video", 0, 6.0, 1.0, sound=False)
        late, asked = Span(90.0, 100.0), engine.yes_no("Is there a circle?", blank)
        for use in (lambda: asked.score(late), lambda: engine.chat(blank).ask("What?", late)):
            with pytest.raises(SpecError, match="the clip is 0:06 long, and 1:30 is not in it"):
                use()
        assert asked.score(Span(1.0, 100.0)).span == Span(1.0, 6.0)


class _Graph:
    """Says that it was closed, or fails."""

    def __init__(self, fails: bool) -> None:
        self.fails, self.closed = fails, 0

    def run(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        return dict(inputs)

    def close(self) -> None:
        self.closed += 1
        if self.fails:
            raise BackendError("cannot be closed")


def test_all_parts_are_closed_also_where_one_fails() -> None:
    engine = Engine.open("miniature", device="cpu", threads=1, n_ctx=300)
    graphs = {name: _Graph(name == "frames") for name in ("clips", "frames", "video")}
    engine.encoders._open.update(graphs)
    with pytest.raises(BackendError, match="cannot be closed"):
        engine.close()
    with pytest.raises(BackendError, match="the language model was closed"):
        engine.backbone.piece(1)
    engine.close()
    assert [graph.closed for graph in graphs.values()] == [1, 1, 1]


@pytest.mark.parametrize("fps", [0.0, -1.0, 61.0, float("nan")])
def test_sources_of_ones_own_are_followed_by_the_same_rules(engine: Engine, fps: float) -> None:
    unused: Any = object()
    with pytest.raises(SpecError, match="use more than 0, and at most 60"):
        engine.follow(unused, None, Clock(), fps=fps)
    with pytest.raises(SpecError, match="neither camera nor microphone"):
        engine.follow(None, None, Clock())


def test_a_rate_that_is_beyond_all_floats_is_refused(engine: Engine, clip: Path) -> None:
    with pytest.raises(SpecError, match=r"fps is 1e\+400; use 0 to 1000"):
        engine.index(clip, fps=10**400)
    with pytest.raises(SpecError, match=r"fps is 1e\+400; use more than 0, and at most 60"):
        engine.watch(camera=0, fps=10**400)


def test_model_without_an_audio_branch_follows_no_microphone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "bundle", replace(engine.bundle, spec=replace(engine.spec, audio=None)))
    unused: Any = object()
    with pytest.raises(SpecError, match="miniature has no audio branch and cannot hear"):
        engine.follow(None, unused, Clock())
