"""Clips that training never saw, as real files with questions whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch

from .kinds import questions
from .render import render
from .sampler import HELD_OUT, sample_clip

_ASKED = 10  # questions of a clip


@dataclass(frozen=True)
class _Form:
    """How a clip is filmed and packed, as cameras, phones and web sites do it."""

    width: int
    height: int
    fps: int
    sample_rate: int = 44100
    channels: int = 2
    crf: int = 23
    gain: float = 1.0


_FORMS = (
    _Form(320, 240, 24),
    _Form(480, 270, 30, sample_rate=48000, crf=28, gain=0.5),
    _Form(270, 480, 30, sample_rate=48000, channels=1),
    _Form(256, 256, 15, channels=1, crf=33, gain=0.3),
    _Form(640, 360, 25, sample_rate=48000, crf=30),
    _Form(320, 240, 60, crf=28, gain=0.5),
)


def write_set(folder: Path, clips: int, step: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Render clips into `folder` and write their questions; the same number gives the same set.

    Args:
        step: called with (clips rendered, clips to render).

    Returns:
        The file of questions, in the form of `vllama.runtime.question_set`.
    """
    torch.set_num_threads(1)  # pictures are small: more threads only wait for each other
    path = folder / "questions.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(clips):
            rng = Random(HELD_OUT + number)
            clip = sample_clip(rng)
            name = f"{number:04}.mp4"
            render(clip, folder / name, **asdict(_FORMS[number % len(_FORMS)]))
            for asked in questions(clip, rng, _ASKED):
                row = {
                    "video": name,
                    "question": asked.text,
                    "answer": asked.answer,
                    "kind": asked.kind,
                    "key": sorted(asked.key),
                    "rivals": sorted(asked.rivals),
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            step(number + 1, clips)
    return path
