"""The Python API as the README shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import needs_links
from tests.e2e.conftest import greedy
from vllama.runtime import (
    Chat,
    ContextOverflowError,
    Delta,
    Engine,
    FileError,
    Frame,
    ModelNotFoundError,
    ShapeError,
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


def test_answer_that_is_left_and_still_held_stands_before_the_next_question(engine: Engine, clip: Path) -> None:
    timeline = engine.index(clip)
    closed, held = engine.chat(timeline), engine.chat(timeline)
    for chat in (closed, held):
        answer = chat.ask("a", sampling=greedy(engine, 40))
        begun = next(answer).text
        if chat is closed:
            answer.close()
        _read(chat.ask("b", sampling=greedy(engine, 4)))
        assert [turn.question for turn in chat.turns] == ["a", "b"]
    assert held.turns[0].answer is not None
    assert held.turns[0].answer.startswith(begun.strip())
    assert [turn.answer for turn in held.turns] == [turn.answer for turn in closed.turns]
    _, last = _read(answer)
    assert last.usage is not None
    assert (last.usage.finish, last.usage.answer) == ("cancelled", held.turns[0].answer)
    left = held.ask("c", sampling=greedy(engine, 40))
    next(left)
    held.clear()
    left.close()
    assert held.turns == ()


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
    with pytest.raises(SpecError, match=r"seed is 1\.5; use a whole number from 0 to 4294967294"):
        chat.ask("a", seed=1.5)  # type: ignore[arg-type]
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


def test_a_picture_in_memory_is_answered_about_as_the_file_is(engine: Engine, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    filed, seen = engine.index(tmp_path / "picture.png"), engine.see([Frame(7, 0.0, pixels)])
    assert (seen.kind, seen.length, seen.duration, seen.sound) == ("image", 1, 0.0, False)
    np.testing.assert_array_equal(seen.frames_in()[0].features, filed.frames_in()[0].features)
    chats = [engine.chat(timeline) for timeline in (filed, seen)]
    texts = [_read(chat.ask("What is it?", sampling=greedy(engine)))[0] for chat in chats]
    assert texts[0] == texts[1] != ""
    assert chats[0].last_prompt == chats[1].last_prompt


def test_pictures_in_memory_are_a_video_of_their_times(engine: Engine) -> None:
    rng = np.random.default_rng(0)
    frames = (Frame(0, 0.5 * n, rng.integers(0, 256, (30 + n, 40, 3), np.uint8)) for n in range(12))
    timeline = engine.see(frames)
    assert (timeline.kind, timeline.length, timeline.duration, timeline.frame_rate) == ("video", 12, 6.0, 2.0)
    assert [frame.time for frame in timeline.choose_frames(4)] == [0.0, 1.5, 3.0, 4.5]
    _, last = _read(engine.chat(timeline).ask("What?", Span(2.0, 4.0), sampling=greedy(engine, 2)))
    assert last.usage is not None
    assert last.usage.frame_times
    assert all(2.0 <= moment <= 4.0 for moment in last.usage.frame_times)


@pytest.mark.parametrize(
    ("times", "shape", "error", "said"),
    [
        ([], (4, 4, 3), SpecError, "there is no picture to see; give at least one"),
        ([-1.0], (4, 4, 3), SpecError, "a picture is at -1.0 s; let each be later than the one before, from 0 s on"),
        ([0.0, float("nan")], (4, 4, 3), SpecError, "a picture is at nan s"),
        ([0.0, 1.0, 1.0], (4, 4, 3), SpecError, "a picture is at 1.0 s"),
        ([0.0], (4, 4), ShapeError, r"a picture is uint8 \(4, 4\); give uint8 \(h, w, 3\), RGB"),
        ([0.0], (4, 4, 4), ShapeError, r"a picture is uint8 \(4, 4, 4\)"),
        ([0.0], (0, 4, 3), ShapeError, r"a picture is uint8 \(0, 4, 3\)"),
    ],
)
def test_pictures_that_are_none_are_refused(
    engine: Engine, times: list[float], shape: tuple[int, ...], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        engine.see(Frame(0, moment, np.zeros(shape, np.uint8)) for moment in times)
