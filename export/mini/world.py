"""The world of the miniature: what a clip is, and where everything is at any time of it.

Times are fractions of the clip's duration. Positions are fractions of the frame's width and height from its upper left
corner, radii fractions of its shorter side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross")
Action = Literal[
    "moves left", "moves right", "moves up", "moves down", "grows", "shrinks", "rotates", "blinks", "bounces", "turns",
    "appears", "disappears",
]  # fmt: skip
SoundKind = Literal[
    "low tone", "high tone", "rising sweep", "falling sweep", "beeps", "noise burst", "knock", "chirp"
]  # fmt: skip
BLINKS = 3  # how often a thing that blinks vanishes
BOUNCES = 2  # how often a thing that bounces jumps
_MOVES = {"moves left": (-1, 0), "moves right": (1, 0), "moves up": (0, -1), "moves down": (0, 1)}


@dataclass(frozen=True)
class Thing:
    """A coloured shape as the clip begins. angle: radians."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    angle: float = 0.0


@dataclass(frozen=True)
class Event:
    """What one thing does from `start` to `end`.

    thing: its number in the clip. amount: the way moved or jumped (fraction of the frame), the factor of the radius at
    the end (grows > 1, shrinks < 1), the angle turned (rotates, radians); unused otherwise. colour: what it turns to.
    Appearing, disappearing and turning happen at `start`, all at once.
    """

    thing: int
    action: Action
    start: float
    end: float
    amount: float = 0.0
    colour: str = ""


@dataclass(frozen=True)
class Sound:
    """What is heard from `start` to `end`; count: how many beeps."""

    kind: SoundKind
    start: float
    end: float
    count: int = 1


@dataclass(frozen=True)
class Clip:
    """One clip. seed: of everything that no question asks about (background, loudness, timbre); duration: seconds."""

    seed: int
    duration: float
    things: tuple[Thing, ...]
    events: tuple[Event, ...]
    sounds: tuple[Sound, ...]


def starts_whole(clip: Clip) -> bool:
    """Whether its first picture shows every thing."""
    return all(event.action != "appears" for event in clip.events)


@dataclass(frozen=True)
class State:
    """One thing at one moment."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    angle: float
    visible: bool


def state(clip: Clip, thing: int, time: float) -> State:
    """How a thing looks at a fraction of the duration, after all its events until then."""
    start = clip.things[thing]
    colour, x, y, radius, angle = start.colour, start.x, start.y, start.radius, start.angle
    own = [event for event in clip.events if event.thing == thing]
    own.sort(key=lambda event: event.start)
    comings = [event.action for event in own if event.action in ("appears", "disappears")]
    visible = comings[:1] != ["appears"]
    for event in own:
        if time < event.start:
            break
        done = min(1.0, (time - event.start) / max(event.end - event.start, 1e-9))
        if event.action in _MOVES:
            dx, dy = _MOVES[event.action]
            x, y = x + dx * event.amount * done, y + dy * event.amount * done
        elif event.action in ("grows", "shrinks"):
            radius *= event.amount**done
        elif event.action == "rotates":
            angle += event.amount * done
        elif event.action == "bounces":
            y -= event.amount * abs(math.sin(math.pi * BOUNCES * done))
        elif event.action == "blinks":
            visible = visible and math.floor(2 * BLINKS * done) % 2 == 0
        elif event.action == "turns":
            colour = event.colour
        else:
            visible = event.action == "appears"
    return State(colour, start.shape, x, y, radius, angle, visible)
