"""The three clips of `vllama demo`, and their files."""

from __future__ import annotations

from pathlib import Path

from .render import render
from .world import Clip, Event, Sound, Thing

CLIPS = {
    "circle": Clip(
        seed=11,
        duration=6.0,
        things=(Thing("red", "circle", 0.24, 0.5, 0.15), Thing("blue", "star", 0.76, 0.24, 0.14)),
        events=(Event(0, "moves right", 0.04, 0.31, 0.36), Event(1, "disappears", 0.62, 0.62)),
        sounds=(Sound("beeps", 0.2, 0.2 + 3 * 0.25 / 6.0, 3),),
    ),
    "square": Clip(
        seed=12,
        duration=5.0,
        things=(Thing("yellow", "triangle", 0.5, 0.3, 0.13), Thing("green", "square", 0.26, 0.74, 0.12)),
        events=(Event(1, "grows", 0.05, 0.3, 1.7), Event(0, "turns", 0.7, 0.7, colour="white")),
        sounds=(Sound("rising sweep", 0.12, 0.32),),
    ),
    "cross": Clip(
        seed=13,
        duration=7.0,
        things=(
            Thing("orange", "cross", 0.24, 0.74, 0.13),
            Thing("cyan", "circle", 0.74, 0.74, 0.12),
            Thing("purple", "star", 0.5, 0.26, 0.13),
        ),
        events=(Event(0, "moves up", 0.04, 0.31, 0.42), Event(2, "shrinks", 0.54, 0.8, 1 / 1.7)),
        sounds=(Sound("knock", 0.5, 0.5 + 0.2 / 7.0),),
    ),
}


def write_demo(folder: Path) -> None:
    """Render the clips of the demo into `folder`."""
    for name, clip in CLIPS.items():
        render(clip, folder / f"{name}.mp4", width=320, height=240, fps=24, crf=28)
