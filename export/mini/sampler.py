"""Clips drawn at random, so that eight frames and eight pieces of sound show everything that is asked about them.

Seeds of `random.Random` below HELD_OUT make training clips, the others clips that training never sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import get_args

from .world import COLOURS, SHAPES, Action, Clip, Event, Sound, SoundKind, Thing, state

HELD_OUT = 2**31
INSTANT: tuple[Action, ...] = ("appears", "disappears", "turns")
MOVES: tuple[Action, ...] = ("moves left", "moves right", "moves up", "moves down")
GRADUAL: tuple[Action, ...] = (*MOVES, "grows", "shrinks")
ALONE: tuple[Action, ...] = ("rotates", "blinks", "bounces")  # need all frames of a clip, so nothing else happens in it
ZONES = ("middle", "left", "right", "top", "bottom", "top left", "top right", "bottom left", "bottom right")
LOW, MIDDLE, HIGH = (0.14, 0.31), (0.42, 0.58), (0.69, 0.86)  # zones of x and y; thirds and fifths agree on them
WITH, APART = 0.02, 0.25  # sound and event: together up to WITH of the clip, one after the other from APART on
_SECONDS: dict[str, tuple[float, float]] = {
    "low tone": (0.5, 1.0),
    "high tone": (0.5, 1.0),
    "rising sweep": (0.6, 1.2),
    "falling sweep": (0.6, 1.2),
    "noise burst": (0.3, 0.7),
    "knock": (0.2, 0.2),
    "chirp": (0.3, 0.3),
}
_BEEP_SECONDS = 0.25
_HEARD_UNTIL = 0.9  # the last of eight overlapping pieces of two seconds ends there in a clip of eight seconds


def sample_clip(rng: Random) -> Clip:
    """A clip of 4-8 s: 1-3 things of different colours and shapes, up to two events, up to one sound."""
    while True:
        count = rng.choices((1, 2, 3), (0.28, 0.38, 0.34))[0]
        duration = round(rng.uniform(4.0, 8.0), 2)
        colours = sorted(rng.sample(COLOURS, count), key=COLOURS.index)  # pictures show no other order of things
        names = list(zip(colours, rng.sample(SHAPES, count), strict=True))
        events = _events(rng, names)
        for _ in range(200):  # keeps what happens, looks for places: or what needs room would be rare
            things = tuple(
                Thing(colour, shape, _place(rng), _place(rng), rng.uniform(0.11, 0.17), rng.uniform(-0.15, 0.15))
                for colour, shape in names
            )
            if _is_clear(Clip(0, duration, things, events, ())):
                return Clip(rng.getrandbits(31), duration, things, events, _sounds(rng, duration, events))


def sample_long_clip(rng: Random, seconds: float) -> Clip:
    """A clip of many events and sounds, one of each about every six seconds, for questions about parts of it."""
    while True:
        colours = sorted(rng.sample(COLOURS, 3), key=COLOURS.index)
        places = rng.sample([(x, y) for x in (LOW, MIDDLE, HIGH) for y in (LOW, MIDDLE, HIGH)], 3)
        things = tuple(
            Thing(colour, shape, rng.uniform(*x), rng.uniform(*y), rng.uniform(0.11, 0.15), rng.uniform(-0.15, 0.15))
            for colour, shape, (x, y) in zip(colours, rng.sample(SHAPES, 3), places, strict=True)
        )
        clip = Clip(rng.getrandbits(31), seconds, things, (), ())
        count = max(1, int(seconds / 6))
        for slot in range(count):
            for _ in range(30):
                event = _long_event(rng, clip, (slot + 0.1) / count, 0.7 / count)
                longer = Clip(clip.seed, seconds, things, (*clip.events, event), ())
                if _is_clear(longer, steps=8 * count, small=0.05, large=0.3):
                    clip = longer
                    break
        sounds = []
        for slot in range(count):
            kind, length, beeps = _sound_kind(rng)
            start = (slot + rng.uniform(0.1, 0.5)) / count
            sounds.append(Sound(kind, start, start + length / seconds, beeps))
        if len(clip.events) >= count // 2:
            return Clip(clip.seed, seconds, things, clip.events, tuple(sounds))


def zone(x: float, y: float) -> str:
    """Where a centre lies: one of ZONES."""
    row = "top" if y < 0.365 else "bottom" if y > 0.635 else ""
    column = "left" if x < 0.365 else "right" if x > 0.635 else ""
    return f"{row} {column}".strip() or "middle"


def _events(rng: Random, names: Sequence[tuple[str, str]]) -> tuple[Event, ...]:
    number = rng.choices((0, 1, 2), (0.08, 0.42, 0.5))[0]
    if number == 1:
        return (_only_event(rng, names),)
    while number:
        first = rng.randrange(len(names))
        others = [thing for thing in range(len(names)) if thing != first]
        second = rng.choice(others) if others and rng.random() < 0.85 else first
        early, late = _slot_event(rng, names, first, late=False), _slot_event(rng, names, second, late=True)
        if first != second or _follows(early.action, late.action):
            return early, late
    return ()


def _place(rng: Random) -> float:
    return rng.uniform(*rng.choice((LOW, MIDDLE, HIGH)))


def _only_event(rng: Random, names: Sequence[tuple[str, str]]) -> Event:
    thing = rng.randrange(len(names))
    if rng.random() < 0.4:
        action: Action = rng.choice(ALONE)
        if action == "rotates" and names[thing][1] == "circle":
            action = rng.choice(("blinks", "bounces"))  # nobody sees a circle rotate
        start = rng.uniform(0.03, 0.09)
        end = start + rng.uniform(0.72, 0.78)
        return Event(thing, action, start, end, _amount(rng, action, end - start))
    if rng.random() < 0.45:
        return _event(rng, names, thing, rng.choice(INSTANT), rng.uniform(0.06, 0.86), 0.0)
    start = (rng.randrange(4) + rng.uniform(0.08, 0.56)) / 8
    length = min(rng.uniform(0.25, 0.6), 0.87 - start)
    return _event(rng, names, thing, rng.choice(GRADUAL), start, length)


def _slot_event(rng: Random, names: Sequence[tuple[str, str]], thing: int, late: bool) -> Event:
    """An event in the first four or the last four frames."""
    if rng.random() < 0.45:
        at = rng.uniform(0.53, 0.86) if late else rng.uniform(0.05, 0.4)
        return _event(rng, names, thing, rng.choice(INSTANT), at, 0.0)
    start = rng.uniform(0.51, 0.57) if late else (rng.randrange(2) + rng.uniform(0.08, 0.56)) / 8
    return _event(rng, names, thing, rng.choice(GRADUAL), start, rng.uniform(0.2, 0.29))


def _event(
    rng: Random, names: Sequence[tuple[str, str]], thing: int, action: Action, start: float, length: float
) -> Event:
    free = [colour for colour in COLOURS if colour not in {taken for taken, _ in names}]
    colour = rng.choice(free) if action == "turns" else ""
    return Event(thing, action, start, start + length, _amount(rng, action, length), colour)


def _amount(rng: Random, action: str, length: float) -> float:
    if action in MOVES:
        return rng.uniform(0.32, 0.5)
    if action in ("grows", "shrinks"):
        factor = rng.uniform(1.6, 1.9)
        return factor if action == "grows" else 1 / factor
    if action == "rotates":  # less than half a symmetry of a star from frame to frame
        return rng.choice((-1, 1)) * 8 * length * math.radians(rng.uniform(18, 32))
    return rng.uniform(0.15, 0.25) if action == "bounces" else 0.0


def _long_event(rng: Random, clip: Clip, start: float, length: float) -> Event:
    """One event that the state of its thing at `start` allows; colours of other things are not taken."""
    thing = rng.randrange(len(clip.things))
    now = state(clip, thing, start)
    if not now.visible:
        return Event(thing, "appears", start, start)
    action: Action = rng.choice((*GRADUAL, "turns", "disappears"))
    used = {other.colour for other in clip.things} | {event.colour for event in clip.events}
    free = [colour for colour in COLOURS if colour not in used]
    if action == "turns" and not free:
        action = "disappears"
    colour = rng.choice(free) if action == "turns" else ""
    return Event(thing, action, start, start if action in INSTANT else start + length, _amount(rng, action, 0), colour)


def _is_clear(clip: Clip, steps: int = 16, small: float = 0.055, large: float = 0.34) -> bool:
    """Whether all things stay apart, whole and visible for as long as the labels say."""
    for step in range(steps + 1):
        states = [state(clip, thing, step / steps) for thing in range(len(clip.things))]
        for number, one in enumerate(states):
            x_inside, y_inside = (one.radius + 0.01 <= value <= 0.99 - one.radius for value in (one.x, one.y))
            if not (x_inside and y_inside and small <= one.radius <= large):
                return False
            for other in states[number + 1 :]:
                if math.hypot(one.x - other.x, one.y - other.y) < 0.98 * (one.radius + other.radius):
                    return False
    return True


def _follows(first: str, second: str) -> bool:
    """Whether one thing can do one after the other without doubt about what it did."""
    if first == "disappears" or second == "appears":
        return False
    axes = {"moves left": "x", "moves right": "x", "moves up": "y", "moves down": "y", "grows": "r", "shrinks": "r"}
    return first != second and (axes.get(first) is None or axes.get(first) != axes.get(second))


def _sounds(rng: Random, duration: float, events: Sequence[Event]) -> tuple[Sound, ...]:
    if rng.random() < 0.1:
        return ()
    kind, seconds, count = _sound_kind(rng)
    length = seconds / duration
    latest = _HEARD_UNTIL - length
    instant = [event.start for event in events if event.action in INSTANT]
    start = rng.uniform(0.02, latest)
    if instant and rng.random() < 0.85:
        at = rng.choice(instant)
        ways = {"with": (at - WITH, at + WITH), "before": (0.02, at - APART), "after": (at + APART, latest)}
        possible = [way for way in ways.values() if max(way[0], 0.02) < min(way[1], latest)]
        if possible:
            low, high = rng.choice(possible)
            start = rng.uniform(max(low, 0.02), min(high, latest))
    return (Sound(kind, start, start + length, count),)


def _sound_kind(rng: Random) -> tuple[SoundKind, float, int]:
    """Kind, seconds, count; the kinds are equally frequent, except that beeps count as three."""
    kinds: tuple[SoundKind, ...] = get_args(SoundKind)
    kind = rng.choices(kinds, [3 if name == "beeps" else 1 for name in kinds])[0]
    if kind == "beeps":
        count = rng.randint(1, 5)
        return kind, count * _BEEP_SECONDS, count
    return kind, rng.uniform(*_SECONDS[kind]), 1
