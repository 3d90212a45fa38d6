"""Clips as the product samples them: eight pictures of 56 x 56 and eight pieces of sound, without a file between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vllama.runtime.fbank import clip_bounds
from vllama.runtime.spec import AudioSpec

from .camera import film
from .draw import Things, paint, random_style
from .mel import log_mel
from .scenes import SIDE, random_aspect
from .sound import track
from .world import COLOURS, SHAPES, Clip, Event, state

FRAMES, MOST = 8, 3
_RATES = (15.0, 24.0, 25.0, 30.0, 60.0)


def in_order(clip: Clip) -> Clip:
    """The same clip with its things in the order of COLOURS: pictures show no other, so no text should need one."""
    order = sorted(range(len(clip.things)), key=lambda number: COLOURS.index(clip.things[number].colour))
    events = tuple(
        Event(order.index(e.thing), e.action, e.start, e.end, e.amount, e.colour)
        for e in sorted(clip.events, key=lambda e: e.start)
    )
    return Clip(clip.seed, clip.duration, tuple(clip.things[number] for number in order), events, clip.sounds)


def things_at(clip: Clip, times: Sequence[float], most: int = 0) -> Things:
    """What is there at those fractions of the duration, (len(times), most or the number of things)."""
    size = (len(times), max(most, len(clip.things)))
    kinds, numbers = np.zeros((2, *size), np.int64), np.zeros((5, *size), np.float32)
    numbers[2] = 0.1  # a radius that nothing is divided by
    for i, time in enumerate(times):
        for j in range(len(clip.things)):
            now = state(clip, j, time)
            kinds[:, i, j] = SHAPES.index(now.shape), COLOURS.index(now.colour)
            numbers[:, i, j] = now.x, now.y, now.radius, now.angle, now.visible
    return Things(*torch.from_numpy(kinds).unbind(0), *torch.from_numpy(numbers).unbind(0))


def frames_of(clips: Sequence[Clip], generator: torch.Generator) -> Tensor:
    """Eight pictures of each clip, as after a camera and a codec: (8 n, 3, 56, 56), 0 to 1."""
    parts = []
    for clip in clips:
        total = max(FRAMES, int(clip.duration * _RATES[clip.seed % len(_RATES)]))
        parts.append(things_at(clip, [(i * total // FRAMES) / total for i in range(FRAMES)], MOST))
    things = Things(*(torch.cat([getattr(part, name) for part in parts]) for name in Things.__dataclass_fields__))
    style = random_style(len(clips), generator).repeat(FRAMES)
    aspect = random_aspect(len(clips), generator).repeat_interleave(FRAMES)
    return film(paint(things, style, aspect, SIDE, SIDE)[0], generator, FRAMES)


def fbanks_of(samples: np.ndarray, spec: AudioSpec) -> Tensor:
    """Eight filterbanks of one sound (8, 1, num_mel_bins, target_length), within 5 ms of where the product has them."""
    shift = int(spec.frame.shift_ms * spec.sample_rate / 1000.0)
    window = int(spec.frame.length_ms * spec.sample_rate / 1000.0)
    mel = log_mel(torch.from_numpy(samples)[None], spec)[0]  # (num_mel_bins, frames)
    out = torch.zeros(spec.num_clips, 1, spec.num_mel_bins, spec.target_length)
    for number, (first, last) in enumerate(clip_bounds(len(samples), spec)):
        count = (last - first - window) // shift + 1
        start = min(round(first / shift), mel.shape[1] - count)
        out[number, 0, :, :count] = mel[:, start : start + count]
    return (out - spec.normalise.mean) / spec.normalise.std


def sound_of(clip: Clip, spec: AudioSpec) -> Tensor:
    """Eight filterbanks of a clip's sound."""
    return fbanks_of(track(clip, spec.sample_rate), spec)
