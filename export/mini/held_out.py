"""Clips that training never saw, as real files with questions whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

from .kinds import questions
from .render import render
from .sampler import HELD_OUT, sample_clip

_ASKED = 10  # questions of a clip
# Frames and frame rates as cameras and phones make them; all are stretched to the encoder's square.
_FORMS = ((320, 240, 24), (480, 270, 30), (270, 480, 30), (256, 256, 15), (640, 360, 25), (320, 240, 60))


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
            width, height, fps = _FORMS[number % len(_FORMS)]
            name = f"{number:04}.mp4"
            render(clip, folder / name, width=width, height=height, fps=fps)
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
