"""Clips of a minute and more: what their parts show, and questions about all of it.

In training a part stands as facts, introduced with its times exactly as the runtime introduces it (`--long segments`).
An answer names the part that it rests on: what has to be found is then next to what has to be said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import get_args

from vllama.runtime.segments import Segment, plan_segments
from vllama.runtime.types import Span

from .asked_of_pictures import EVENT_WORDS, shape
from .clips import in_order
from .facts import deed, event_text
from .questions import Question, question, yes_no
from .sampler import GRADUAL, sample_long_clip
from .wording import ask, sentence, verb
from .world import Clip, Event, Sound, SoundKind, Thing, state

_FEWEST, _MOST = 2, 9  # parts of a training clip
_PART_SECONDS = (7.0, 9.0)
_SEEN = 0.86  # of a part: what begins later its eight frames do not show
_EVENTS, _SOUNDS = 2, 1  # of a part: more a facts line does not hold


def sample_parts(rng: Random) -> tuple[Clip, tuple[Segment, ...]]:
    """A long clip for training with its parts; of what happens only what the facts of its parts say.

    In each part is something to be seen: facts have no word for nothing.
    """
    while True:
        number = rng.randint(_FEWEST, _MOST)
        clip = sample_long_clip(rng, round(number * rng.uniform(*_PART_SECONDS), 2))
        parts = plan_segments(Span.whole().within(clip.duration), number, 1)
        shown = _as_shown(clip, parts)
        if all(part_of(shown, part).things for part in parts):
            return shown, parts


def _as_shown(clip: Clip, parts: Sequence[Segment]) -> Clip:
    events: list[Event] = []
    sounds: list[Sound] = []
    for part in parts:
        start, length = _fractions(clip, part)
        events += [event for event in clip.events if start <= event.start < start + _SEEN * length][:_EVENTS]
        sounds += [sound for sound in clip.sounds if start <= sound.start < start + length][:_SOUNDS]
    return replace(clip, events=tuple(events), sounds=tuple(sounds))


def _fractions(clip: Clip, part: Segment) -> tuple[float, float]:
    return part.span.start / clip.duration, (part.span.end - part.span.start) / clip.duration


def part_of(clip: Clip, part: Segment) -> Clip:
    """What one part of a long clip shows, as a clip of its own: things as it begins, and what starts in it."""
    start, length = _fractions(clip, part)
    states = [state(clip, number, start) for number in range(len(clip.things))]
    events = [event for event in clip.events if start <= event.start < start + _SEEN * length]
    there = [i for i, now in enumerate(states) if now.visible or any(event.thing == i for event in events)]
    now = tuple(Thing(*(getattr(states[i], name) for name in Thing.__dataclass_fields__)) for i in there)
    inside = tuple(
        replace(e, thing=there.index(e.thing), start=(e.start - start) / length, end=(e.end - start) / length)
        for e in events[:_EVENTS]
    )
    sounds = tuple(
        replace(s, start=(s.start - start) / length, end=(s.end - start) / length)
        for s in clip.sounds
        if start <= s.start < start + length
    )
    return in_order(Clip(clip.seed, clip.duration * length, now, inside, sounds[:_SOUNDS]))


def long_questions(clip: Clip, parts: Sequence[Segment], rng: Random, count_of: int) -> list[Question]:
    """Up to `count_of` questions about all of a long clip."""
    asked: list[Question] = []
    for maker in rng.choices((_does, _heard, _order, _first, _last, _shape), (6, 5, 5, 1, 1, 1), k=4 * count_of):
        made = maker(clip, parts, rng)
        if made is not None and len(asked) < count_of:
            asked.append(made)
    return asked


def _when(clip: Clip, parts: Sequence[Segment], start: float) -> str:
    """Such as "from 0:08 to 0:16"."""
    seconds = start * clip.duration
    intro = next(part.intro for part in reversed(parts) if part.span.start <= seconds)
    return intro[0].lower() + intro[1:].rstrip(": ")


def _does(clip: Clip, parts: Sequence[Segment], rng: Random) -> Question | None:
    """Does the circle ever disappear?"""
    truth = rng.random() < 0.5
    event = rng.choice(clip.events)
    if not truth:
        done = {other.action for other in clip.events if other.thing == event.thing}
        undone = [action for action in (*GRADUAL, "disappears") if action not in done]
        if not undone:
            return None
        event = replace(event, action=rng.choice(undone), colour="")
    shape_name = clip.things[event.thing].shape
    v, vs = verb(event, rng)
    text = ask(
        rng, "does {x} {v}", "does {x} ever {v}", "do you see {x} {v}", "is it true that {x} {vs}", "did {x} {v}",
        "{x} {vs}, right", "[tell me|say] whether {x} {vs}", x=f"the {shape_name}", v=v, vs=vs,
    )  # fmt: skip
    first = next((e for e in clip.events if (e.thing, deed(e)) == (event.thing, deed(event))), None)
    found = _when(clip, parts, first.start) if first and truth else "never"
    return yes_no("long does it", text, f"the {shape_name} {deed(event)}", found, truth)


def _heard(clip: Clip, parts: Sequence[Segment], rng: Random) -> Question | None:
    """Is a knock heard?"""
    there = {sound.kind: sound for sound in reversed(clip.sounds) if sound.kind != "beeps"}
    truth = rng.random() < 0.5
    kinds = [kind for kind in get_args(SoundKind) if kind != "beeps" and (kind in there) == truth]
    if not kinds:
        return None
    kind = rng.choice(kinds)
    text = ask(
        rng, "is {x} heard", "do you hear {x}", "is there {x}", "can you hear {x}", "is {x} to be heard",
        "[tell me|say] whether {x} is heard", x=f"a {kind}",
    )  # fmt: skip
    found = _when(clip, parts, there[kind].start) if truth else "never"
    return yes_no("long is it heard", text, f"a {kind}", found, truth, "audio")


def _order(clip: Clip, parts: Sequence[Segment], rng: Random) -> Question | None:
    """Does the circle disappear before or after the star grows? Only of what happens once, in different parts."""
    once = [e for e in clip.events if sum((o.thing, o.action) == (e.thing, e.action) for o in clip.events) == 1]
    if len(once) < 2:
        return None
    one, other = rng.sample(once, 2)
    times = [_when(clip, parts, event.start) for event in (one, other)]
    if times[0] == times[1]:
        return None
    x, y = (f"the {clip.things[event.thing].shape}" for event in (one, other))
    (v, vs), (_, ws) = verb(one, rng), verb(other, rng)
    word = "before" if one.start < other.start else "after"
    text = ask(
        rng, "does {x} {v} before or after {y} {ws}", "{x} {vs} before or after {y} {ws}",
        "is it before or after {y} {ws} that {x} {vs}", "did {x} {v} before or after {y} {ws}",
        x=x, y=y, v=v, vs=vs, ws=ws,
    )  # fmt: skip
    said = f"{x} {deed(one)} {times[0]}, {y} {deed(other)} {times[1]}, so {word}"
    return question("long order", text, sentence(said), [word], ("before", "after"))


def _first(clip: Clip, parts: Sequence[Segment], rng: Random) -> Question:
    text = ask(rng, "what happens first", "what is the first event", "which event is first", "what happens at first")
    return _end("long first", text, clip, clip.events[0])


def _last(clip: Clip, parts: Sequence[Segment], rng: Random) -> Question:
    text = ask(rng, "what happens last", "what is the last event", "which event is last", "what happens in the end")
    return _end("long last", text, clip, clip.events[-1])


def _end(kind: str, text: str, clip: Clip, event: Event) -> Question:
    colour = state(clip, event.thing, event.start - 1e-6).colour
    thing = replace(clip.things[event.thing], colour=colour)
    said = event_text(
        replace(clip, things=(*clip.things[: event.thing], thing, *clip.things[event.thing + 1 :])), event
    )
    words = [thing.colour, thing.shape, *deed(event).split()]
    return question(kind, text, sentence(f"the {said}"), words, EVENT_WORDS)


def _shape(clip: Clip, parts: Sequence[Segment], rng: Random) -> Question | None:
    """The shape of a thing that keeps its colour."""
    kept = [i for i in range(len(clip.things)) if all(e.action != "turns" for e in clip.events if e.thing == i)]
    if not kept:
        return None
    asked = shape(replace(clip, things=(clip.things[rng.choice(kept)],), events=()), rng)
    return None if asked is None else replace(asked, kind="long shape")
