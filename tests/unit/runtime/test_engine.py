from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vllama.runtime import BackendError, Engine, SpecError
from vllama.runtime.capture.clock import Clock


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.open("miniature", device="cpu", threads=1, answers=False) as engine:
        yield engine


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"threads": 0}, "threads is 0; use 1 or more"),
        ({"threads": -3}, "threads is -3; use 1 or more"),
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


@pytest.mark.parametrize("fps", [0.0, -1.0, 61.0, float("nan")])
def test_sources_of_ones_own_are_followed_by_the_same_rules(engine: Engine, fps: float) -> None:
    unused: Any = object()
    with pytest.raises(SpecError, match="use more than 0, and at most 60"):
        engine.follow(unused, None, Clock(), fps=fps)
    with pytest.raises(SpecError, match="neither camera nor microphone"):
        engine.follow(None, None, Clock())


def test_model_without_an_audio_branch_follows_no_microphone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "bundle", replace(engine.bundle, spec=replace(engine.spec, audio=None)))
    unused: Any = object()
    with pytest.raises(SpecError, match="miniature has no audio branch and cannot hear"):
        engine.follow(None, unused, Clock())
