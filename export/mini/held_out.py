"""Clips that training never saw, as real files with questions whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TextIO

import torch

from vllama.runtime.segments import plan_segments
from vllama.runtime.types import Span

from .kinds import questions
from .long import long_questions
from .questions import REFUSAL, Question, question
from .render import render, write_mp4
from .sampler import HELD_OUT, sample_clip, sample_long_clip
from .strange_sounds import RATE, strange_tracks
from .strangers import strangers

_ASKED, _ASKED_OF_LONG = 10, 16  # questions of a clip
_LONG_FPS = 12


@dataclass(frozen=True)
class Form:
    """How a clip is filmed and packed, as cameras, phones and web sites do it."""

    width: int
    height: int
    fps: int
    sample_rate: int = 44100
    channels: int = 2
    crf: int = 23
    gain: float = 1.0


FORMS = (
    Form(320, 240, 24),
    Form(480, 270, 30, sample_rate=48000, crf=28, gain=0.5),
    Form(270, 480, 30, sample_rate=48000, channels=1),
    Form(256, 256, 15, channels=1, crf=33, gain=0.3),
    Form(640, 360, 25, sample_rate=48000, crf=30),
    Form(320, 240, 60, crf=28, gain=0.5),
)


def write_set(
    folder: Path,
    clips: int,
    step: Callable[[int, int], None] = lambda done, total: None,
    forms: Sequence[Form] = FORMS,
) -> Path:
    """Render clips into `folder` and write their questions; the same number gives the same set.

    Args:
        forms: taken in turn, clip by clip.
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
            render(clip, folder / name, **asdict(forms[number % len(forms)]))
            _write(file, name, questions(clip, rng, _ASKED))
            step(number + 1, clips)
    return path


def write_long_set(folder: Path, clips: int, seconds: float) -> Path:
    """Long clips, an event and a sound about every six seconds, with questions about all of each; as `write_set`."""
    torch.set_num_threads(1)
    path = folder / "questions.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(clips):
            rng = Random(HELD_OUT + number)
            clip = sample_long_clip(rng, seconds)
            name = f"{number:04}.mp4"
            render(clip, folder / name, fps=_LONG_FPS)
            whole = plan_segments(Span.whole().within(seconds), 1, 1)
            _write(file, name, long_questions(clip, whole, rng, _ASKED_OF_LONG))
    return path


def _write(file: TextIO, name: str, asked: Sequence[Question]) -> None:
    for each in asked:
        row = {
            "video": name,
            "question": each.text,
            "answer": each.answer,
            "kind": each.kind,
            "key": sorted(each.key),
            "rivals": sorted(each.rivals),
        }
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


_ASKED_OF_STRANGERS = tuple(
    question(kind, text, REFUSAL, ("outside", "world"), ())
    for kind, text in (
        ("foreign picture", "What do you see?"),
        ("foreign picture", "What colour is the thing?"),
        ("foreign picture", "Which way does it move?"),
        ("foreign sound", "What do you hear?"),
        ("foreign sound", "How many beeps are there?"),
    )
)
_STRANGE_SIZE, _STRANGE_FPS, _SHOT_SECONDS = 224, 24, 0.75


def write_foreign_set(folder: Path, clips: int, step: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Clips that are not of this world, pictures and sounds alike, and questions that should be refused.

    Args:
        step: as `write_set`.

    Returns:
        The file of questions, as `write_set`.
    """
    torch.set_num_threads(1)
    path = folder / "foreign.jsonl"
    shots, tracks = strangers(clips, HELD_OUT), strange_tracks(clips, HELD_OUT)
    repeats = round(_STRANGE_FPS * _SHOT_SECONDS)
    with path.open("w", encoding="utf-8") as file:
        for number, (shot, track) in enumerate(zip(shots, tracks, strict=True)):
            name = f"foreign-{number:04}.mp4"
            large = torch.nn.functional.interpolate(shot.float(), size=(_STRANGE_SIZE, _STRANGE_SIZE), mode="bilinear")
            pixels = large.byte().permute(0, 2, 3, 1).contiguous().numpy().repeat(repeats, 0)
            sound = track[: round(len(pixels) / _STRANGE_FPS * RATE)]
            write_mp4(folder / name, pixels, _STRANGE_FPS, sound, RATE)
            _write(file, name, _ASKED_OF_STRANGERS)
            step(number + 1, clips)
    return path
