"""The filterbank of training is that of the runtime."""

from __future__ import annotations

import numpy as np
import torch

from vllama.export.mini.clips import fbanks_of
from vllama.export.mini.mel import batched_fbank
from vllama.runtime.fbank import clip_bounds, clip_fbanks
from vllama.runtime.registry import find_spec
from vllama.runtime.types import Samples

AUDIO = find_spec("miniature").audio
assert AUDIO is not None


def _sound(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    t = np.arange(int(seconds * 16000)) / 16000
    return (0.3 * np.sin(2 * np.pi * 440 * t) + 0.02 * rng.standard_normal(len(t))).astype(np.float32)


def test_batched_fbank_equals_that_of_the_runtime() -> None:
    assert AUDIO is not None
    sound = _sound(2.0)
    expected = clip_fbanks([Samples(0.0, sound[None], 16000)], AUDIO)[0]
    found = batched_fbank(torch.from_numpy(np.stack((sound, 0.5 * sound))), AUDIO)[0].numpy()
    assert found.shape == (1, 128, 204)
    assert np.abs(found - expected).max() < 1e-3


def test_fbanks_of_a_whole_sound_are_those_of_its_pieces_but_for_their_exact_start() -> None:
    assert AUDIO is not None
    sound = _sound(5.3)
    found = fbanks_of(sound, AUDIO).numpy()
    first, last = clip_bounds(len(sound), AUDIO)[3]
    expected = clip_fbanks([Samples(0.0, sound[None, first:last], 16000)], AUDIO)[0]
    assert found.shape == (8, 1, 128, 204)
    assert np.abs(found[3] - expected).mean() < 0.1
