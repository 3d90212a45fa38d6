"""The Python API as the README shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import needs_links
from tests.e2e.conftest import greedy
from vllama.runtime import (
    Chat,
    ContextOverflowError,
    Delta,
    Engine,
    FileError,
    ModelNotFoundError,
    Span,
    SpecError,
)


def _read(deltas: Iterator[Delta]) -> tuple[str, Delta]:
    parts = list(deltas)
    return "".join(part.text for part in parts), parts[-1]


def test_readme_conversation_runs_as_written(engine: Engine, clip: Path) -> None:
    timeline = engine.index(str(clip))
    chat = engine.chat(timeline)
    text, last = _read(chat.ask("What is she cooking?", sampling=greedy(engine)))
    assert last.usage is not None
    assert text == last.usage.answer == chat.turns[0].answer
    assert (last.usage.first_token_ms > 0, len(last.usage.frame_times), len(last.usage.audio_spans)) == (True, 8, 8)
    _, last = _read(chat.ask("And what do you hear?", span=Span(1.0, 3.0), sampling=greedy(engine)))
    assert last.usage is not None
    assert all(1.0 <= time <= 3.0 for time in last.usage.frame_times)
    assert last.usage.prefilled_tokens < last.usage.prompt_tokens


def test_second_index_finds_the_saved_timeline(engine: Engine, clip: Path) -> None:
    encoded: list[int] = []
    first = engine.index(clip, progress=lambda done, total: encoded.append(done))
    second = engine.index(clip, progress=lambda done, total: encoded.append(-1))
    assert encoded
    assert -1 not in encoded
    for mine, theirs in zip(first.choose_frames(8), second.choose_frames(8), strict=True):
        np.testing.assert_array_equal(mine.features, theirs.features)


def test_damaged_saved_timeline_is_made_again(engine: Engine, clip: Path, tmp_path: Path) -> None:
    engine.index(clip)
    (saved,) = (tmp_path / "cache" / "timelines").glob("*/*.safetensors")
    saved.write_bytes(saved.read_bytes()[:100])
    said: list[str] = []
    assert len(engine.index(clip, note=said.append).choose_frames(8)) == 8
    assert ["dropped" in text for text in said] == [True]


def test_span_on_one_second_looks_inside_it(engine: Engine, clip: Path) -> None:
    timeline = engine.index(clip, fps=10.0)
    _, last = _read(engine.chat(timeline).ask("What?", span=Span.last(1.0), sampling=greedy(engine, 2)))
    assert last.usage is not None
    assert len(last.usage.frame_times) >= 7
    assert all(time >= timeline.duration - 1.0 for time in last.usage.frame_times)


def test_second_question_about_another_span_brings_its_media(engine: Engine, clip: Path) -> None:
    chat = engine.chat(engine.index(clip))
    _read(chat.ask("a", sampling=greedy(engine, 2)))
    _read(chat.ask("b", sampling=greedy(engine, 2)))
    _read(chat.ask("c", span=Span(0.0, 1.0), sampling=greedy(engine, 2)))
    assert [turn.media.kind for turn in chat.turns] == ["audio_video", "text", "audio_video"]


def test_two_conversations_take_turns_on_one_engine(engine: Engine, clip: Path) -> None:
    timeline = engine.index(clip)
    alone = [_read(engine.chat(timeline).ask(q, sampling=greedy(engine)))[0] for q in ("one?", "two?")]
    chats = [engine.chat(timeline), engine.chat(timeline)]
    assert [
        _read(chat.ask(q, sampling=greedy(engine)))[0] for chat, q in zip(chats, ("one?", "two?"), strict=True)
    ] == alone


def test_answer_that_another_question_overtook_ends(engine: Engine, clip: Path) -> None:
    timeline = engine.index(clip)
    first = engine.chat(timeline).ask("one?", sampling=greedy(engine, 40))
    next(first)
    whole = _read(engine.chat(timeline).ask("two?", sampling=greedy(engine)))[0]
    _, last = _read(first)
    assert last.usage is not None
    assert last.usage.finish == "cancelled"
    assert _read(engine.chat(timeline).ask("two?", sampling=greedy(engine)))[0] == whole


def test_left_answer_stays_in_the_conversation(engine: Engine, clip: Path) -> None:
    chat = engine.chat(engine.index(clip))
    answer = chat.ask("a", sampling=greedy(engine, 40))
    begun = next(answer).text
    answer.close()
    assert chat.turns[0].answer is not None
    assert chat.turns[0].answer.startswith(begun.strip())
    assert _read(chat.ask("b", sampling=greedy(engine, 2)))[1].usage is not None


def test_cancel_from_another_thread_ends_the_answer(engine: Engine, clip: Path) -> None:
    chat = engine.chat(engine.index(clip))
    answer = chat.ask("a", sampling=greedy(engine, 300))
    next(answer)
    chat.cancel()
    *_, last = answer
    assert last.usage is not None
    assert last.usage.finish == "cancelled"


def test_cancel_of_one_conversation_leaves_the_answer_of_another(engine: Engine, clip: Path) -> None:
    timeline = engine.index(clip)
    other, chat = engine.chat(timeline), engine.chat(timeline)
    _read(other.ask("b", sampling=greedy(engine)))
    answer = chat.ask("a", sampling=greedy(engine))
    next(answer)
    other.cancel()
    _, last = _read(answer)
    assert last.usage is not None
    assert last.usage.finish != "cancelled"


def test_cancel_ends_the_running_answer_also_where_another_was_asked_for(engine: Engine, clip: Path) -> None:
    chat = engine.chat(engine.index(clip))
    running = chat.ask("a", sampling=greedy(engine))
    next(running)
    asked = chat.ask("b", sampling=greedy(engine))
    chat.cancel()
    for answer in (running, asked):
        _, last = _read(answer)
        assert last.usage is not None
        assert last.usage.finish == "cancelled"


@pytest.mark.parametrize("prepared", [False, True])
def test_cancel_before_the_prompt_is_read_ends_the_answer_and_not_the_next(
    engine: Engine, clip: Path, prepared: bool
) -> None:
    timeline = engine.index(clip)
    whole = _read(engine.chat(timeline).ask("a", sampling=greedy(engine)))[0]
    chat = engine.chat(timeline)
    chat.cancel()  # nothing is asked: it stops nothing
    if prepared:
        chat.prepare()
    assert _read(chat.ask("a", sampling=greedy(engine)))[0] == whole
    chat.clear()
    if prepared:
        chat.prepare()
    answer = chat.ask("a", sampling=greedy(engine))
    chat.cancel()
    text, last = _read(answer)
    assert last.usage is not None
    assert (text, last.usage.finish, last.usage.answer_tokens) == ("", "cancelled", 0)
    chat.clear()
    assert _read(chat.ask("a", sampling=greedy(engine)))[0] == whole


def test_wrong_arguments_are_refused(engine: Engine, clip: Path) -> None:
    chat: Chat = engine.chat(engine.index(clip))
    with pytest.raises(SpecError, match="empty"):
        chat.ask("  ")
    with pytest.raises(SpecError, match="seed"):
        chat.ask("a", seed=-1)
    for call in (lambda: chat.ask("a", long="memmory"), lambda: chat.prepare(long="memmory")):  # type: ignore[arg-type]
        with pytest.raises(SpecError, match="long is 'memmory'; use one of frames, memory, segments, map"):
            call()
    with pytest.raises(SpecError, match="1:02 is not in it"):
        chat.ask("a", Span(62.0, 100.0))
    with pytest.raises(ContextOverflowError):
        list(chat.ask("word " * 3000))
    assert chat.turns == ()


def test_timeline_of_other_encoders_is_refused(engine: Engine, clip: Path, export_tiny: Callable[..., Path]) -> None:
    with Engine.open(export_tiny(precision="int8", quant="Q8_0")) as other:
        timeline = other.index(clip)
        assert timeline.choose_frames(8)[0].features.dtype == np.float16
    with pytest.raises(FileError, match="made by"):
        engine.chat(timeline)


@needs_links
def test_engine_without_a_name_opens_the_only_bundle(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLAMA_MODELS", str(tmp_path))
    with Engine.open() as engine:
        assert engine.spec.name == "miniature"
    (tmp_path / "mine").symlink_to(tiny_bundle)
    with Engine.open() as engine:
        assert engine.spec.name == "tiny-vicuna"
    (tmp_path / "other").symlink_to(tiny_bundle)
    with pytest.raises(ModelNotFoundError, match="mine, other"):
        Engine.open()
