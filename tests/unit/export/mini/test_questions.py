from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from vllama.export.mini.facts import NUMBERS
from vllama.export.mini.kinds import IMAGE_MAKERS, MAKERS, questions
from vllama.export.mini.questions import NOTHING_HEARD, NOTHING_SEEN, REFUSAL, Question, with_sources
from vllama.export.mini.sampler import sample_clip, zone
from vllama.export.mini.world import COLOURS, SHAPES, Clip, Event, Sound, Thing, state

THINGS = (Thing("yellow", "cross", 0.8, 0.5, 0.1), Thing("white", "square", 0.2, 0.2, 0.1))
EVENTS = (Event(1, "grows", 0.02, 0.4, 1.8), Event(0, "disappears", 0.8, 0.8))
CLIP = Clip(0, 5.0, THINGS, EVENTS, (Sound("rising sweep", 0.3, 0.5),))


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    rng = Random(21)
    return [sample_clip(rng) for _ in range(800)]


def asked(kind: str, clip: Clip = CLIP, tries: int = 100) -> list[Question]:
    rng = Random(1)
    return [made for made in (MAKERS[kind](clip, rng) for _ in range(tries)) if made is not None]


@pytest.mark.parametrize("kind", MAKERS)
def test_every_answer_says_its_key_and_no_rival(kind: str, clips: list[Clip]) -> None:
    rng = Random(4)
    made = [MAKERS[kind](clip, rng) for clip in clips]
    found = [question for question in made if question is not None]
    assert len(found) > 10
    for question in found:
        assert question.key, question
        assert question.is_right(question.answer), question
        assert "[" not in question.text, question
        assert "{" not in question.text, question


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_is_worded_in_many_ways(kind: str, clips: list[Clip]) -> None:
    rng = Random(6)
    assert len({made.text for made in (MAKERS[kind](clip, rng) for clip in clips) if made}) >= 20


def test_static_answers_agree_with_the_state_of_the_world(clips: list[Clip]) -> None:
    rng = Random(8)
    for clip in clips[:200]:
        states = [state(clip, number, 0.0) for number in range(len(clip.things))]
        for question in questions(clip, rng, 30):
            named = [one for one in states if one.shape in question.text.lower() or one.colour in question.text.lower()]
            if question.kind == "count":
                assert question.key == {NUMBERS[len(clip.things)]}
            elif question.kind == "where":
                assert question.key in [frozenset(zone(one.x, one.y).split()) for one in named], (clip, question)
            elif question.kind == "shape" and len(named) == 1:
                assert question.key == {named[0].shape}, (clip, question)
            elif question.kind == "colour" and "end" not in question.text and len(named) == 1:
                assert question.key == {named[0].colour}, (clip, question)


def test_what_happens_agrees_with_the_state_of_the_world(clips: list[Clip]) -> None:
    rng = Random(9)
    for clip in clips:
        for kind in ("turned", "first", "last", "direction"):
            made = MAKERS[kind](clip, rng)
            if made is None:
                continue
            if kind == "turned":
                ends = [state(clip, number, 1.0).colour for number in range(len(clip.things))]
                assert made.key & set(ends), (clip, made)
            elif kind == "direction":
                assert {f"moves {way}" for way in made.key} <= {event.action for event in clip.events}
            else:
                times = [event.start for event in clip.events]
                event = clip.events[times.index(min(times) if kind == "first" else max(times))]
                thing = clip.things[event.thing]
                assert {thing.colour, thing.shape, *event.action.split()} <= made.key, (clip, made)


@pytest.mark.parametrize(
    "kind", ["is there", "is it", "does it", "is it before", "is it heard", "any sound", "is the sound"]
)
def test_yes_and_no_are_equally_frequent(kind: str, clips: list[Clip]) -> None:
    rng = Random(10)
    words = Counter(word for clip in clips * 2 if (made := MAKERS[kind](clip, rng)) for word in made.key)
    assert abs(words["yes"] / words.total() - 0.5) < 0.07, words


@pytest.mark.parametrize(
    ("kind", "words"), [("order", 2), ("sound order", 3), ("direction", 4), ("pitch", 2), ("tone", 2)]
)
def test_no_answer_is_much_more_frequent_than_another(kind: str, words: int, clips: list[Clip]) -> None:
    rng = Random(12)
    found = Counter(made.key for clip in clips * 2 if (made := MAKERS[kind](clip, rng)))
    assert len(found) == words
    assert max(found.values()) < 1.35 * found.total() / words, found


def test_two_step_answers_write_down_the_facts_first() -> None:
    assert {made.answer for made in asked("order")} >= {
        "The square grows at 0, the cross disappears at 6, so before.",
        "The cross disappears at 6, the square grows at 0, so after.",
    }
    before = Clip(0, 5.0, THINGS, EVENTS, (Sound("knock", 0.3, 0.35),))
    assert "I hear a knock at 2, the cross disappears at 6, so before." in {
        made.answer for made in asked("sound order", before)
    }


def test_kinds_that_a_clip_cannot_answer_are_not_asked() -> None:
    still = Clip(0, 5.0, THINGS[:1], (), ())
    for kind in ("direction", "first", "order", "beeps", "pitch", "sound time", "sound order", "turned", "actor"):
        assert asked(kind, still) == []


def test_questions_about_foreign_or_missing_media() -> None:
    seen, heard, both = asked("colour")[0], asked("sound")[0], asked("sound order")[0]
    assert with_sources(seen, "own", "foreign") is seen
    assert with_sources(heard, "foreign", "own") is heard
    assert with_sources(seen, "foreign", "own").answer == REFUSAL
    assert with_sources(both, "own", "foreign").answer == REFUSAL
    assert with_sources(seen, "none", "own").answer == NOTHING_SEEN
    assert with_sources(heard, "own", "none").answer == NOTHING_HEARD
    refused = with_sources(seen, "foreign", "none")
    assert refused.is_right(REFUSAL)
    assert not refused.is_right(seen.answer)


def test_a_picture_is_asked_about_what_it_shows() -> None:
    rng = Random(5)
    asked_of_it = questions(CLIP, rng, 50, IMAGE_MAKERS)
    assert asked_of_it
    for question in asked_of_it:
        assert question.needs == "video"
        assert question.kind in {*IMAGE_MAKERS}


def test_weights_choose_the_kinds() -> None:
    weights = dict.fromkeys(MAKERS, 0.0) | {"colour": 1.0, "shape": 1.0}
    kinds = Counter(question.kind for question in questions(CLIP, Random(1), 40, weights=weights))
    assert set(kinds) == {"colour", "shape"}


def test_rivals_are_the_other_words_of_the_kind() -> None:
    colour, shape = asked("colour")[0], asked("shape")[0]
    assert colour.key | colour.rivals == set(COLOURS)
    assert shape.key | shape.rivals == set(SHAPES)
