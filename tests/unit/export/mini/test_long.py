from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from vllama.export.mini.facts import deed
from vllama.export.mini.long import long_questions, part_of, sample_parts
from vllama.export.mini.sampler import sample_long_clip
from vllama.export.mini.world import Clip, Event, Sound, Thing, state
from vllama.runtime.segments import plan_segments
from vllama.runtime.types import Span

THINGS = (Thing("red", "circle", 0.2, 0.2, 0.1), Thing("blue", "star", 0.7, 0.7, 0.1))
CLIP = Clip(
    1,
    24.0,
    THINGS,
    (
        Event(0, "turns", 2 / 24, 2 / 24, colour="green"),
        Event(1, "disappears", 10 / 24, 10 / 24),
        Event(0, "moves right", 12 / 24, 14 / 24, 0.4),
        Event(1, "appears", 20 / 24, 20 / 24),
    ),
    (Sound("knock", 9 / 24, 9.2 / 24), Sound("chirp", 15 / 24, 15.3 / 24)),
)
PARTS = plan_segments(Span(0.0, 24.0), 3, 1)


def test_a_part_shows_things_as_they_are_by_then_and_what_begins_in_it() -> None:
    first, second, third = (part_of(CLIP, part) for part in PARTS)
    assert [thing.colour for thing in first.things] == ["red", "blue"]
    assert [deed(event) for event in first.events] == ["turns green"]
    assert [thing.colour for thing in second.things] == ["green", "blue"]
    assert [(deed(e), second.things[e.thing].shape) for e in second.events] == [
        ("disappears", "star"),
        ("moves right", "circle"),
    ]
    assert second.events[0].start == pytest.approx(0.25)
    assert [sound.kind for sound in second.sounds] == ["knock"]
    assert third.things[0].x == pytest.approx(0.6)
    assert [deed(event) for event in third.events] == ["appears"]
    assert not third.sounds


def test_a_thing_that_is_away_is_not_in_a_part() -> None:
    away = replace(CLIP, events=CLIP.events[:2])
    assert [thing.shape for thing in part_of(away, PARTS[2]).things] == ["circle"]


def test_what_vanishes_and_comes_back_was_there_at_first() -> None:
    assert [state(CLIP, 1, time).visible for time in (0.0, 0.5, 0.9)] == [True, False, True]


def test_answers_about_long_clips_agree_with_their_parts() -> None:
    rng, asked = Random(7), 0
    for _ in range(60):
        clip, parts = sample_parts(rng)
        shown = [part_of(clip, part) for part in parts]
        for question in long_questions(clip, parts, rng, 12):
            asked += 1
            assert question.is_right(question.answer), question
            named = [part for part in parts if part.intro[1:].rstrip(": ") in question.answer]
            if question.kind == "long is it heard":
                kind = question.answer.split("?")[0].removeprefix("a ")
                there = [part for part, one in zip(parts, shown, strict=True) if kind in {s.kind for s in one.sounds}]
                assert named == there[:1], question
            if question.kind == "long does it":
                shape, done = question.answer.removeprefix("the ").split("?")[0].split(" ", 1)
                there = [
                    part
                    for part, one in zip(parts, shown, strict=True)
                    if (shape, done) in {(one.things[e.thing].shape, deed(e)) for e in one.events}
                ]
                assert named == there[:1], question
    assert asked > 400


def test_half_of_the_statements_about_long_clips_are_true() -> None:
    rng, said = Random(8), {"yes": 0, "no": 0}
    for _ in range(100):
        clip = sample_long_clip(rng, 60.0)
        for question in long_questions(clip, plan_segments(Span(0.0, 60.0), 7, 1), rng, 12):
            for word in question.key & set(said):
                said[word] += 1
    assert 0.8 < said["yes"] / said["no"] < 1.25
