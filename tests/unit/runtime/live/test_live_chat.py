"""Conversations over what was seen and heard, with the miniature."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.live.waiting import until
from vllama.runtime import Clock, Engine, Live, LiveChat, MediaError, Span, SpecError, Timeline, Usage
from vllama.runtime.encoders import Encoders
from vllama.runtime.live.read_ahead import ReadAhead
from vllama.runtime.question_set import words
from vllama.runtime.timeline import ClipFeature, FrameFeature


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.open("miniature", threads=2) as engine:
        yield engine


@pytest.fixture
def timeline(engine: Engine, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Timeline:
    """Ten minutes of the clip's pictures and sound; after five of them, another picture at every time."""
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path))
    shown = engine.index(clip, fps=4.0).frames_in()
    sounds = list(engine.index(clip, fps=4.0)._clips.items.values())
    live = Timeline(engine.bundle.encoders_hash, "", "video", 0, 0.0, 1000.0, sound=True, live=True)
    for number in range(2400):
        features = shown[number % 4 if number < 1200 else -1 - number % 4].features
        live.add_frame(FrameFeature(250 * number, number / 4, features))
    for second in range(599):
        features = sounds[second % len(sounds)].features
        live.add_clip(ClipFeature(float(second), second + 2.0, features))
    return live


@pytest.fixture
def chat(engine: Engine, timeline: Timeline) -> LiveChat:
    chat = engine.chat(timeline)
    assert isinstance(chat, LiveChat)
    return chat


def ask(chat: LiveChat, question: str = "What do you see?", span: Span | None = None) -> Usage:
    *_, last = chat.ask(question, span)
    assert last.usage is not None
    return last.usage


def go_on(timeline: Timeline, seconds: float) -> None:
    newest = timeline.frames_in()[-1]
    for number in range(1, round(4 * seconds) + 1):
        moment = newest.time + number / 4
        timeline.add_frame(FrameFeature(round(1000 * moment), moment, newest.features))


def test_a_question_is_about_the_window_that_ends_now(chat: LiveChat, timeline: Timeline) -> None:
    times = ask(chat).frame_times
    assert (len(times), times[0]) == (8, 590.0)
    chat.window, chat.fresh_seconds = Span.last(4.0), 0.0
    go_on(timeline, 2.0)
    times = ask(chat).frame_times
    assert times[0] >= timeline.duration - 4.0 - 0.25
    assert ask(chat, span=Span(100.0, 104.0)).frame_times[0] == 100.0
    assert ask(chat, span=Span.whole()).frame_times[0] == 0.0


def test_what_was_prepared_is_asked_about_while_it_is_fresh(chat: LiveChat, timeline: Timeline) -> None:
    chat.prepare()
    chat._backbone.wait_ahead()
    go_on(timeline, 1.0)
    usage = ask(chat)
    assert usage.frame_times[0] == 590.0
    assert usage.prefilled_tokens < 12 < usage.prompt_tokens
    chat.fresh_seconds = 0.0
    chat.prepare()
    go_on(timeline, 1.0)
    assert ask(chat).frame_times[0] == pytest.approx(592.0, abs=0.25)


def test_an_older_window_is_not_taken_once_prepared_or_cleared_again_or_stale(
    chat: LiveChat, timeline: Timeline
) -> None:
    def newest() -> float:
        return chat._look(None, None).frame_times[0]

    chat.fresh_seconds = 60.0
    assert newest() == 590.0
    go_on(timeline, 1.0)
    assert newest() == 590.0
    chat.prepare()
    assert newest() == pytest.approx(591.0, abs=0.25)
    go_on(timeline, 1.0)
    chat.clear()
    assert newest() == pytest.approx(592.0, abs=0.25)
    go_on(timeline, 1.0)
    chat.fresh_seconds = 0.1
    time.sleep(0.15)
    assert newest() == pytest.approx(593.0, abs=0.25)
    chat.fresh_seconds = 60.0
    assert [chat._look(None, long).long for long in (None, "memory", "frames")] == ["frames", "memory", "frames"]


def test_a_window_that_was_forgotten_is_not_asked_about(chat: LiveChat, timeline: Timeline) -> None:
    chat.fresh_seconds = 60.0
    chat.prepare()
    timeline.forget(Span.whole())
    with pytest.raises(MediaError, match="nothing was seen or heard"):
        ask(chat)


@pytest.mark.parametrize("prepared", [False, True])
def test_a_span_that_was_forgotten_is_not_asked_about_again(chat: LiveChat, timeline: Timeline, prepared: bool) -> None:
    span = Span(100.0, 104.0)
    assert min(ask(chat, span=span).frame_times) >= 100.0
    timeline.forget(span)
    if prepared:
        chat.prepare(span)
    assert not any(100.0 <= time <= 104.0 for time in ask(chat, span=span).frame_times)


def test_of_earlier_turns_the_words_alone_are_kept(chat: LiveChat) -> None:
    for number in range(2):
        ask(chat, span=Span(10.0 * number, 10.0 * number + 8.0))
    assert [turn.media.kind for turn in chat.turns] == ["text", "text"]
    assert {said.media.kind for said in chat._history._said} == {"text"}


def test_a_live_conversation_is_not_summarised(engine: Engine, timeline: Timeline) -> None:
    with pytest.raises(SpecError) as error:
        engine.chat(timeline, summarise=True)
    assert str(error.value) == "a live conversation remembers one turn, and summarise is True; leave it out"


def test_what_is_watched_is_asked_about_as_its_timeline_is(engine: Engine, timeline: Timeline) -> None:
    span = Span(590.0, 598.0)
    with Live(
        timeline, Encoders(engine.bundle), engine.spec, Clock(), camera=None, microphone=None, fps=4.0, dtype="float16"
    ) as live:
        chat = engine.chat(live)
        chat.window = span
        assert chat.timeline is timeline
        asked = engine.yes_no("Is there a circle?", live)
        assert asked.score(span) == engine.yes_no("Is there a circle?", timeline).score(span)


def test_only_the_turn_before_stands_in_the_prompt_with_the_media_of_now(chat: LiveChat) -> None:
    questions = ["What do you see?", "What do you hear?", "Is there a circle?", "Is there a circle?"]
    sizes = [ask(chat, question, Span(10.0 * n, 10.0 * n + 8.0)).prompt_tokens for n, question in enumerate(questions)]
    assert len(chat.turns) == 4
    assert max(sizes) < 1.6 * sizes[0], sizes
    media = [key for key in chat.last_prompt if isinstance(key, str)]
    assert len(media) == 32 + 8


def test_what_was_said_does_not_change_the_next_window(engine: Engine, timeline: Timeline, chat: LiveChat) -> None:
    for span in (Span(0.0, 8.0), Span(590.0, 598.0)):
        ask(chat, span=span)
    first = [key for key in chat.last_prompt if isinstance(key, str)]
    alone = engine.chat(timeline)
    assert isinstance(alone, LiveChat)
    ask(alone, span=Span(590.0, 598.0))
    assert [key for key in alone.last_prompt if isinstance(key, str)] == first


def test_a_time_without_anything_is_said_and_prepared_without_a_word(chat: LiveChat, timeline: Timeline) -> None:
    timeline.reach(700.0)
    chat.prepare()
    with pytest.raises(MediaError, match="nothing was seen or heard"):
        ask(chat)
    with pytest.raises(MediaError, match="nothing was seen or heard"):
        ask(chat, span=Span(800.0, 900.0))  # is still to come
    assert chat.turns == ()
    assert ask(chat, span=Span(590.0, 600.0)).answer


def test_of_a_time_long_ago_of_which_nothing_is_kept_what_is_near_is_looked_at(
    chat: LiveChat, timeline: Timeline
) -> None:
    timeline.forget(Span(100.0, 120.0))
    times = ask(chat, span=Span(108.0, 112.0)).frame_times
    assert {99.75, 120.25} <= set(times) <= {98.25, 99.75, 120.25, 121.75}, times
    timeline.forget(Span(560.0, 580.0))
    with pytest.raises(MediaError, match="nothing was seen or heard"):
        ask(chat, span=Span(568.0, 572.0))


def test_an_answer_is_known_while_it_is_made_and_reading_ahead_is_none(chat: LiveChat, engine: Engine) -> None:
    backbone = engine._backbone
    assert backbone is not None
    until(lambda: not backbone.answers)
    chat.prepare()
    assert not backbone.answers
    deltas = chat.ask("What do you see?")
    next(deltas)
    assert backbone.answers
    list(deltas)
    until(lambda: not backbone.answers)


def test_the_window_is_read_as_it_moves_until_a_question_takes_it(chat: LiveChat, timeline: Timeline) -> None:
    read: list[float] = []
    prepare = chat.prepare

    def noted(**options: object) -> None:
        read.append(timeline.duration)
        prepare(**options)  # type: ignore[arg-type]

    chat.prepare = noted  # type: ignore[method-assign, assignment]
    with ReadAhead(chat) as ahead:
        until(lambda: len(read) == 1)
        go_on(timeline, 1.0)
        ahead.typing()
        until(lambda: len(read) == 3)
        assert read[2] > read[0]
        with ahead.asking() as mine:
            usage = ask(mine)
        assert usage.prefilled_tokens < 12 < usage.prompt_tokens
        before = len(read)
        until(lambda: len(read) > before)


def test_the_score_of_yes_is_that_of_the_answer(engine: Engine, timeline: Timeline) -> None:
    for question in ("Is there a circle?", "Do you hear a tone?", "Do you hear a knock?"):
        span = Span(590.0, 598.0)
        chat = engine.chat(timeline)
        assert isinstance(chat, LiveChat)
        answer = ask(chat, question, span).answer
        score = engine.yes_no(question, timeline).score(span)
        assert score == engine.yes_no(question, timeline).score(span)
        if score.yes is None:
            assert not {"yes", "no"} & words(answer), answer
        else:
            assert answer.lower().startswith(score.answer.lower())
            assert answer.endswith("yes." if score.yes > 0.5 else "no."), (answer, score)
            assert len(score.frame_times) == 8


def test_what_is_not_answered_by_yes_or_no_has_no_score(engine: Engine, timeline: Timeline) -> None:
    score = engine.yes_no("What do you see?", timeline).score(Span(590.0, 598.0))
    assert (score.yes, bool(score.answer)) == (None, True)
    timeline.reach(700.0)
    nothing = engine.yes_no("Is there a circle?", timeline).score(Span.last(4.0))
    assert (nothing.yes, nothing.answer, nothing.frame_times) == (None, "", ())


def test_scores_come_from_the_logits_of_both_words(engine: Engine, timeline: Timeline) -> None:
    asked = engine.yes_no("Is there a circle?", timeline)
    logits = np.full(asked._backbone.n_vocab, -20.0, np.float32)
    assert asked._decided(logits) is None
    logits[asked._yes[0]], logits[asked._no[0]] = 5.0, 5.0 + np.log(3.0)
    assert asked._decided(logits) == pytest.approx(0.25, abs=1e-6)
    logits[(asked._yes[0] + 1 + np.arange(3)) % len(logits)] = 9.0
    assert asked._decided(logits) is None
    logits[:] = -20.0
    other = next(token for token in range(len(logits)) if token not in (*asked._yes, *asked._no))
    for share, decided in ((0.49, False), (0.51, True)):
        logits[asked._no[0]], logits[other] = np.log(share), np.log(1.0 - share)
        assert (asked._decided(logits) is not None) == decided
