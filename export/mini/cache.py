"""What the frozen encoders say about many clips, computed once: the joined stages read it over and over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from vllama.runtime.spec import ModelSpec

from ..graphs import ClipsGraph, FramesGraph
from .camera import film, normalised
from .clips import fbanks_of, frames_of, in_order, sound_of
from .sampler import sample_clip
from .strangers import SHOTS
from .world import Clip

_CHUNK = 250  # clips of one file


@dataclass(frozen=True)
class Features:
    """clips: as text needs them, things in order. frames: float16 (n, 8, q, width); sounds: float16 (n, 8, width)."""

    clips: list[Clip]
    frames: Tensor
    sounds: Tensor

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, part: slice) -> Features:
        return Features(self.clips[part], self.frames[part], self.sounds[part])


@dataclass(frozen=True)
class Strange:
    """The same of shots and tracks from outside the world: (m, 8, q, width) and (k, 8, width)."""

    frames: Tensor
    sounds: Tensor


def clip_of(seed: int) -> Clip:
    """The clip of a seed, things in order."""
    return in_order(sample_clip(Random(seed)))


def world_features(
    spec: ModelSpec, work: Path, frames: FramesGraph, clips: ClipsGraph | None, count: int, first_seed: int
) -> Features:
    """Features of clip_of(first_seed), clip_of(first_seed + 1), ...; what is in `work` already is read.

    clips: None leaves the sound for a later call with the same work folder.
    """
    assert spec.audio is not None
    audio, seeds = spec.audio, range(first_seed, first_seed + count)
    known = _kept(work / f"clips-{first_seed}.json", seeds)

    def see(part: list[Clip], generator: torch.Generator) -> Tensor:
        return _grouped(encode(frames, normalised(frames_of(part, generator), spec)), len(part))

    def hear(part: list[Clip], generator: torch.Generator) -> Tensor:
        assert clips is not None
        return _grouped(encode(clips, torch.cat([sound_of(clip, audio) for clip in part])), len(part))

    seen = _in_chunks(work / f"frames-{first_seed}", known, see)
    heard = torch.zeros(count, audio.num_clips, audio.encoder.output_size, dtype=torch.float16)
    if clips is not None:
        heard = _in_chunks(work / f"sounds-{first_seed}", known, hear)
    return Features(known, seen, heard)


def strange_pictures(spec: ModelSpec, frames: FramesGraph, shots: Tensor, seed: int) -> Tensor:
    """Features of foreign shots uint8 (m, 8, 3, 56, 56)."""
    generator = torch.Generator().manual_seed(seed)
    seen = [
        _grouped(encode(frames, normalised(film(part.flatten(0, 1) / 255, generator, SHOTS), spec)), len(part))
        for part in torch.split(shots, 50)
    ]
    return torch.cat(seen)


def strange_sounds(spec: ModelSpec, clips: ClipsGraph, tracks: np.ndarray, seed: int) -> Tensor:
    """Features of foreign tracks (k, samples), each twice, cut to the length of a clip."""
    assert spec.audio is not None
    rng = np.random.default_rng(seed)
    cut = [track[: int(rng.uniform(4, 9.9) * spec.audio.sample_rate)] for track in (*tracks, *tracks)]
    return torch.stack([encode(clips, fbanks_of(track, spec.audio)) for track in cut])


@torch.no_grad()
def encode(graph: nn.Module, inputs: Tensor) -> Tensor:
    """float16 output of a frozen graph."""
    with torch.autocast("cpu", torch.bfloat16):
        out: Tensor = torch.cat([graph(part) for part in torch.split(inputs, 64)])
    return out.half()


def _kept(path: Path, seeds: range) -> list[Clip]:
    """Clips of seeds, kept beside what is computed from them: another version of the sampler draws others."""
    clips: list[Clip] = TypeAdapter(list[Clip]).validate_json(path.read_bytes()) if path.exists() else []
    if len(clips) < len(seeds):
        clips += [clip_of(seed) for seed in seeds[len(clips) :]]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(TypeAdapter(list[Clip]).dump_json(clips))
    return clips[: len(seeds)]


def _grouped(features: Tensor, count: int) -> Tensor:
    """(count * t, ...) -> (count, t, ...)."""
    return features.reshape(count, -1, *features.shape[1:])


def _in_chunks(folder: Path, clips: list[Clip], make: Callable[[list[Clip], torch.Generator], Tensor]) -> Tensor:
    folder.mkdir(parents=True, exist_ok=True)
    began, parts = time.monotonic(), []
    for first in range(0, len(clips), _CHUNK):
        path = folder / f"{first}.pt"
        if not path.exists():
            groups = [clips[i : i + 25] for i in range(first, min(first + _CHUNK, len(clips)), 25)]
            made = [make(group, torch.Generator().manual_seed(group[0].seed)) for group in groups]
            torch.save(torch.cat(made), path)
            left = (time.monotonic() - began) / (first + _CHUNK) * max(0, len(clips) - first - _CHUNK)
            print(f"{folder.name}: {first + _CHUNK} of {len(clips)} clips, {left:.0f} s left", flush=True)
        parts.append(torch.load(path, weights_only=True))
    return torch.cat(parts)
