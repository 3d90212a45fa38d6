"""A conversation keeps what it read: in the KV cache, ahead of the question, on the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.conftest import greedy
from vllama.runtime import Chat, ContextOverflowError, Engine, Span, Timeline, Usage
from vllama.runtime.bundle import cache_dir
from vllama.runtime.cache import prefixes
from vllama.runtime.cache.prefixes import PrefixStore
from vllama.runtime.encoders import Encoders
from vllama.runtime.llm.backbone import Backbone
from vllama.runtime.llm.rows import KvPrefix
from vllama.runtime.types import Long
from vllama.runtime.view import Viewer

QUESTIONS = ("What happens?", "And then what is there to see?", "What do you hear?")


@pytest.fixture
def timeline(engine: Engine, clip: Path) -> Timeline:
    return engine.index(clip)


def ask(chat: Chat, engine: Engine, question: str, span: Span | None = None, tokens: int = 6) -> Usage:
    *_, last = chat.ask(question, span, sampling=greedy(engine, tokens))
    assert last.usage is not None
    return last.usage


def backbone(engine: Engine) -> Backbone:
    assert engine._backbone is not None
    return engine._backbone


def count_tokens(engine: Engine, text: str) -> int:
    tokens = backbone(engine).tokenize([text])[-1]
    assert isinstance(tokens, list)
    return len(tokens)


def ahead(chat: Chat, engine: Engine, span: Span | None = None) -> None:
    chat.prepare(span)
    backbone(engine).wait_ahead()


def test_after_prepare_only_the_words_of_the_question_are_read(engine: Engine, timeline: Timeline) -> None:
    chat = engine.chat(timeline)
    for question in QUESTIONS:
        ahead(chat, engine)
        usage = ask(chat, engine, question)
        words = count_tokens(engine, question)
        end = count_tokens(engine, "###Assistant:")
        assert usage.prefilled_tokens <= words + end + 2, question


def test_what_was_read_ahead_changes_no_token(engine: Engine, timeline: Timeline) -> None:
    def conversation(prepare: Callable[[Chat], None]) -> list[tuple[int, ...]]:
        chat = engine.chat(timeline)
        answers = []
        for question in QUESTIONS:
            prepare(chat)
            answers.append(ask(chat, engine, question).token_ids)
        return answers

    alone = conversation(lambda chat: None)
    assert conversation(lambda chat: ahead(chat, engine)) == alone
    assert conversation(lambda chat: chat.prepare(Span(1.0, 2.0))) == alone  # a wrong guess, stopped wherever it is
    assert conversation(lambda chat: ahead(chat, engine, Span(1.0, 2.0))) == alone


def test_prepare_returns_before_the_prompt_is_read(engine: Engine, timeline: Timeline) -> None:
    chat = engine.chat(timeline)
    ask(chat, engine, "warm up")
    chat.clear()
    for _ in range(20):
        begun = time.perf_counter()
        chat.prepare()
        assert time.perf_counter() - begun < 5.0
    assert ask(chat, engine, "What?").answer_tokens == 6


def test_second_turn_reads_no_media_and_equals_a_full_recompute(
    engine: Engine, timeline: Timeline, tiny_bundle: Path
) -> None:
    chat = engine.chat(timeline)
    usages = [ask(chat, engine, question) for question in QUESTIONS]
    assert all(usage.prefilled_tokens < usage.prompt_tokens - 12 for usage in usages[1:])
    with Engine.open(tiny_bundle) as fresh:
        again = fresh.chat(timeline)
        for number, usage in enumerate(usages):
            backbone(fresh)._cached.clear()  # nothing of the cache is believed: everything is decoded again
            found = ask(again, fresh, QUESTIONS[number])
            assert found.prefilled_tokens == found.prompt_tokens == usage.prompt_tokens
            assert found.token_ids == usage.token_ids


def test_kept_prefix_gives_the_same_tokens_without_reading_the_media(
    engine: Engine, timeline: Timeline, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ask(engine.chat(timeline), engine, "What?")
    chat = engine.chat(timeline)
    chat.prepare(keep=True)
    (kept,) = (tmp_path / "cache" / "prefixes").iterdir()
    with Engine.open(tiny_bundle) as later:
        usage = ask(later.chat(timeline), later, "What?")
        assert usage.token_ids == plain.token_ids
        assert usage.prefilled_tokens < plain.prefilled_tokens - 12  # the media at least
    written = kept.stat().st_ino
    with Engine.open(tiny_bundle) as later:
        later.chat(timeline).prepare(keep=True)
        assert kept.stat().st_ino == written, "what was found on disk is not written again"
    with Engine.open(tiny_bundle) as later:
        monkeypatch.setattr(later.backbone, "restore", lambda prefix: False)
        later.chat(timeline).prepare(keep=True)
        assert kept.stat().st_ino != written, "what llama.cpp does not take is"
    kept.write_bytes(kept.read_bytes()[:-100])
    with Engine.open(tiny_bundle) as later:
        usage = ask(later.chat(timeline), later, "What?")
        assert (usage.token_ids, usage.prefilled_tokens) == (plain.token_ids, plain.prefilled_tokens)
    assert not kept.exists()


def test_flipped_bit_in_a_kept_prefix_is_noticed(
    engine: Engine, timeline: Timeline, tiny_bundle: Path, tmp_path: Path
) -> None:
    plain = ask(engine.chat(timeline), engine, "What?")
    engine.chat(timeline).prepare(keep=True)
    (kept,) = (tmp_path / "cache" / "prefixes").iterdir()
    data = bytearray(kept.read_bytes())
    data[-1000] ^= 1
    kept.write_bytes(data)
    with Engine.open(tiny_bundle) as later:
        usage = ask(later.chat(timeline), later, "What?")
    assert (usage.token_ids, usage.prefilled_tokens) == (plain.token_ids, plain.prefilled_tokens)


def test_old_turns_are_left_out_and_the_media_never(tiny_bundle: Path, timeline: Timeline) -> None:
    with Engine.open(tiny_bundle, n_ctx=256) as small:
        chat = small.chat(timeline)
        usages = [ask(chat, small, f"Question number {number}, please?", tokens=12) for number in range(12)]
        left_out = [usage.turns_left_out for usage in usages]
        assert left_out == sorted(left_out)
        assert 0 == left_out[0] < left_out[-1] < 12
        assert len(chat.turns) == 12
        assert all(usage.prompt_tokens < 256 for usage in usages)
        media = len(usages[0].frame_times)
        assert all(len(usage.frame_times) == media for usage in usages)
        # The same conversation begun with the turns that are left says the same.
        fresh = small.chat(timeline)
        fresh._history._said = chat._history._said[left_out[-1] : -1]
        fresh._view = chat._view
        assert ask(fresh, small, "Question number 11, please?", tokens=12).token_ids == usages[-1].token_ids


def test_a_summary_takes_the_place_of_old_turns_where_that_was_asked_for(tiny_bundle: Path, timeline: Timeline) -> None:
    with Engine.open(tiny_bundle, n_ctx=640) as small:
        chat = small.chat(timeline, summarise=True)
        usages = [ask(chat, small, f"Question number {number}, please?", tokens=12) for number in range(24)]
        firsts = [number for number, usage in enumerate(usages) if usage.turns_left_out]
        assert 2 < firsts[0] < 24
        assert usages[firsts[0]].turns_left_out == firsts[0]  # all of them, at once
        assert usages[firsts[0]].prompt_tokens < usages[firsts[0] - 1].prompt_tokens
        assert len(chat.turns) == 24
        assert chat._history._summary is not None
        assert chat._history._summary.answer
        spoken = b"".join(backbone(small).piece(key) for key in chat.last_prompt if isinstance(key, int))
        assert chat._history._summary.question.encode() in spoken
        media = [key for key in chat.last_prompt if isinstance(key, str)]
        assert len(media) == len([key for key in _first_prompt(small, timeline) if isinstance(key, str)])
        chat.clear()
        assert chat._history._summary is None


def test_a_cancelled_summary_ends_the_answer_too(
    tiny_bundle: Path, timeline: Timeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine.open(tiny_bundle, n_ctx=640) as small:
        chat = small.chat(timeline, summarise=True)
        summed_up = chat._short_answer

        def cancelled(*arguments: Any) -> str:
            chat.cancel()
            return summed_up(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(chat, "_short_answer", cancelled)
            usage = ask(chat, small, "What? " * 20, tokens=4)
            while usage.finish != "cancelled":
                assert not usage.turns_left_out, "no summary was begun"
                usage = ask(chat, small, "What? " * 20, tokens=4)
        assert (usage.answer, usage.answer_tokens, chat._history._summary) == ("", 0, None)
        assert ask(chat, small, "And then?").finish != "cancelled"


def _first_prompt(engine: Engine, timeline: Timeline) -> list[int | str]:
    chat = engine.chat(timeline)
    ask(chat, engine, "What?")
    return chat.last_prompt


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory, render_clip: Callable[..., Path]) -> Path:
    return render_clip(tmp_path_factory.mktemp("long") / "long.mp4", picture=True, sound=True, seconds=90)


@pytest.mark.parametrize("long", ["frames", "memory", "segments", "map"])
def test_every_way_of_looking_at_a_long_clip_answers_and_tells_its_times(
    engine: Engine, long_clip: Path, long: Long
) -> None:
    chat = engine.chat(engine.index(long_clip))
    *_, last = chat.ask("What happens?", long=long, sampling=greedy(engine, 6))
    usage = last.usage
    assert usage is not None
    assert usage.long == long
    assert 1 <= usage.answer_tokens <= 6
    assert list(usage.frame_times) == sorted(usage.frame_times)
    if long == "memory":
        assert usage.frames_seen > 85
        assert 8 < len(usage.frame_times) <= 64
    if long == "segments":
        assert len(usage.frame_times) >= 24
        assert usage.prompt_tokens > 200
    if long == "map":
        assert usage.parts[0][0] == 0
        assert usage.parts[-1][1] == pytest.approx(90, abs=0.2)
        assert all(before[1] == after[0] for before, after in pairwise(usage.parts))
    follow_up = ask(chat, engine, "And then?")
    assert follow_up.long == long
    if long in ("memory", "segments"):
        assert follow_up.prefilled_tokens < usage.prompt_tokens  # the media are still in the KV cache
    other: Long = "memory" if long == "frames" else "frames"
    *_, last = chat.ask("And now?", long=other, sampling=greedy(engine, 1))
    assert last.usage is not None
    assert last.usage.long == other


def test_cancel_in_one_part_of_a_long_clip_ends_the_whole_answer(
    engine: Engine, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, read = engine.chat(engine.index(clip, fps=8.0)), list[int]()
    prefill = backbone(engine).prefill

    def cancelled_in_the_second(*arguments: Any) -> int:
        if len(read) == 1:
            chat.cancel()
        read.append(prefill(*arguments))
        return read[-1]

    monkeypatch.setattr(engine._backbone, "prefill", cancelled_in_the_second)
    *_, last = chat.ask("What happens?", long="map", sampling=greedy(engine, 6))
    assert last.usage is not None
    assert (last.usage.finish, last.usage.answer, len(last.usage.parts)) == ("cancelled", "", 1)
    assert read[1:] == [0, 0]  # neither the second part nor the question itself
    assert ask(chat, engine, "And then?").answer_tokens


def test_what_does_not_fit_is_said_by_the_question_and_not_before(tiny_bundle: Path, clip: Path) -> None:
    with Engine.open(tiny_bundle, n_ctx=200) as small:
        chat = small.chat(small.index(clip, fps=8.0))
        chat.prepare(long="segments")
        with pytest.raises(ContextOverflowError, match="one segment needs"):
            list(chat.ask("What?", long="segments"))
        assert ask(chat, small, "What?", tokens=2).answer_tokens


@pytest.fixture
def three_kept(tmp_path: Path) -> tuple[PrefixStore, list[Path]]:
    """Prefixes of 1000 bytes each, and half of one that was never finished; the older the first."""
    store = PrefixStore(tmp_path / "kept", "a model", "")
    paths = [store.keep(KvPrefix((1, number), np.zeros(1000, np.uint8))) for number in range(3)]
    paths.append(tmp_path / "kept" / "0.safetensors.1.part")
    paths[-1].write_bytes(bytes(500))
    for age, path in enumerate(reversed(paths)):
        os.utime(path, (1e9 - age, 1e9 - age))
    return store, paths


def test_of_kept_prefixes_those_that_were_not_used_for_longest_go(
    three_kept: tuple[PrefixStore, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, paths = three_kept
    size = paths[0].stat().st_size
    assert store.find((1, 0)) is not None  # used: it is the newest
    monkeypatch.setattr(prefixes, "_MOST_BYTES", 2 * size)
    kept = store.keep(KvPrefix((1, 9), np.zeros(1000, np.uint8)))
    assert set(kept.parent.iterdir()) == {kept, paths[0]}
    monkeypatch.setattr(prefixes, "_MOST_BYTES", 10)
    large = store.keep(KvPrefix((1, 10), np.zeros(5000, np.uint8)))
    assert list(kept.parent.iterdir()) == [large]  # beyond the bound by itself


def test_a_kept_prefix_that_another_process_holds_stays(
    three_kept: tuple[PrefixStore, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, paths = three_kept
    unlink = Path.unlink

    def held(path: Path, missing_ok: bool = False) -> None:
        if path == paths[0]:
            raise PermissionError(13, "The process cannot access the file")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", held)
    monkeypatch.setattr(prefixes, "_MOST_BYTES", 10)
    kept = store.keep(KvPrefix((1, 9), np.zeros(1000, np.uint8)))
    assert set(kept.parent.iterdir()) == {kept, paths[0]}


def test_a_question_costs_as_many_tokens_on_a_long_clip_as_on_a_short_one(
    engine: Engine, long_clip: Path, clip: Path
) -> None:
    long, short = (ask(engine.chat(engine.index(path)), engine, "What?") for path in (long_clip, clip))
    assert (short.long, long.long) == ("frames", "memory")
    assert long.prompt_tokens == short.prompt_tokens


def test_a_long_clip_is_looked_at_as_the_entry_of_the_model_says(engine: Engine, long_clip: Path) -> None:
    timeline = engine.index(long_clip)
    with Encoders(engine.bundle) as encoders:
        for own in (None, "segments"):
            spec = replace(engine.spec, llm=replace(engine.spec.llm, long=own))
            viewer = Viewer(timeline, encoders, spec, audio=True)
            assert viewer.mode(None, None) == (own or "memory")
            assert viewer.mode(Span(0.0, 20.0), None) == "frames"
            assert viewer.mode(Span.at(40.0), None) == ("frames" if own else "memory")
            assert viewer.mode(None, "map") == "map"


def test_a_moment_is_looked_at_with_what_led_up_to_it(engine: Engine, long_clip: Path) -> None:
    timeline = engine.index(long_clip)
    chat = engine.chat(timeline)
    early, late = (ask(chat, engine, "What is that?", Span.at(seconds)) for seconds in (40.0, 80.0))
    assert (early.long, late.long) == ("memory", "memory")
    for usage, seconds in ((early, 40.0), (late, 80.0)):
        *_, newest = usage.frame_times
        assert newest == pytest.approx(seconds, abs=0.1)
        known = [frame.time for frame in timeline.frames_in() if frame.time <= seconds]
        assert usage.frame_times[-19:] == tuple(known[-19:])  # the newest are as they are
        assert usage.frame_times[0] == 0.0
        assert usage.frames_seen == len(known)
        assert all(seconds - 8 < start < seconds + 1 for start, _ in usage.audio_spans)
    assert len(early.frame_times) < len(late.frame_times) <= 64
    beginning = ask(chat, engine, "What is that?", Span.at(0.0))
    assert beginning.frame_times == (0.0,)
    by_frames = list(chat.ask("What is that?", Span.at(40.0), long="frames", sampling=greedy(engine, 6)))[-1].usage
    assert by_frames is not None
    assert all(32.9 <= time <= 41.1 for time in by_frames.frame_times)


def test_the_whole_of_a_long_clip_is_read_once_and_found_by_the_next_process(
    engine: Engine, tiny_bundle: Path, long_clip: Path
) -> None:
    timeline = engine.index(long_clip)
    assert timeline.remembered is not None
    asked = ask(engine.chat(timeline), engine, "What?")
    plain = engine.index(long_clip)
    plain.remembered = None  # then it is merged for the question, from the frames
    assert ask(engine.chat(plain), engine, "What?").token_ids == asked.token_ids
    with Engine.open(tiny_bundle) as other:
        found = other.index(long_clip)
        assert found.encoded == 0
        assert found.remembered is not None
        np.testing.assert_array_equal(found.remembered.embeds, timeline.remembered.embeds)


def test_a_damaged_memory_is_made_again_when_the_clip_is_indexed(engine: Engine, long_clip: Path) -> None:
    before = engine.index(long_clip).remembered
    (path,) = (cache_dir() / "timelines").rglob("whole.memory")
    path.write_bytes(path.read_bytes()[:-1])
    timeline = engine.index(long_clip)
    assert timeline.encoded == 0
    assert timeline.remembered is not None
    assert before is not None
    np.testing.assert_allclose(timeline.remembered.embeds, before.embeds, atol=1e-3)
    again = engine.index(long_clip).remembered
    assert again is not None
    np.testing.assert_array_equal(again.embeds, timeline.remembered.embeds)


def test_a_clip_that_the_frames_cover_is_looked_at_as_the_original_does(engine: Engine, clip: Path) -> None:
    few = ask(engine.chat(engine.index(clip, fps=0.0)), engine, "What?")
    many = ask(engine.chat(engine.index(clip, fps=5.0)), engine, "What?")
    assert (few.token_ids, few.frame_times) == (many.token_ids, many.frame_times)
