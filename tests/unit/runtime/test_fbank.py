"""Filterbanks against Kaldi's recipe, written out frame by frame."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vllama.runtime.errors import MediaError, ShapeError
from vllama.runtime.fbank import clip_bounds, clip_fbanks, fbank
from vllama.runtime.spec import AudioSpec
from vllama.runtime.types import Samples


def by_recipe(samples: np.ndarray) -> np.ndarray:
    """Kaldi at 16 kHz: 400 samples every 160, Hann, 512 points, 128 triangles from 20 to 8000 Hz, natural log."""

    def mel(hertz: float) -> float:
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    low, high = mel(20.0), mel(8000.0)
    width = (high - low) / 129
    frames = []
    for start in range(0, len(samples) - 400 + 1, 160):
        frame = samples[start : start + 400].astype(np.float64)
        frame = frame - frame.mean()
        emphasised = [frame[0] - 0.97 * frame[0], *(frame[i] - 0.97 * frame[i - 1] for i in range(1, 400))]
        windowed = [value * (0.5 - 0.5 * math.cos(2 * math.pi * i / 399)) for i, value in enumerate(emphasised)]
        power = np.abs(np.fft.fft(windowed, 512)) ** 2
        bins = []
        for number in range(128):
            left, centre, right = (low + width * (number + side) for side in range(3))
            energy = 0.0
            for point in range(256):
                place = mel(point * 16000 / 512)
                if left < place < right:
                    slope = (place - left) if place <= centre else (right - place)
                    energy += power[point] * slope / width
            bins.append(math.log(max(energy, 1.1920929e-07)))
        frames.append(bins)
    return np.array(frames).T


def clip(data: np.ndarray, first: int = 0) -> Samples:
    return Samples(first / 16000, np.atleast_2d(data).astype(np.float32), 16000)


def test_a_filterbank_is_that_of_the_recipe(audio: AudioSpec) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 1100).astype(np.float32)
    got = fbank(samples, audio)
    assert (got.shape, got.dtype.name) == ((128, 5), "float32")
    np.testing.assert_allclose(got, by_recipe(samples), atol=1e-4)


@pytest.mark.parametrize(("count", "frames"), [(400, 1), (559, 1), (560, 2), (32000, 198)])
def test_no_frame_reaches_beyond_the_end(count: int, frames: int, audio: AudioSpec) -> None:
    assert fbank(np.zeros(count, np.float32), audio).shape == (128, frames)


def test_silence_lies_on_the_floor(audio: AudioSpec) -> None:
    assert (fbank(np.zeros(800, np.float32), audio) == np.float32(math.log(1.1920929e-07))).all()


def test_less_than_one_window_is_refused_with_its_length(audio: AudioSpec) -> None:
    with pytest.raises(MediaError, match=r"10 ms of sound are less than one analysis window of 25 ms; .*--no-audio"):
        clip_fbanks([clip(np.zeros(160))] * 8, audio)


def test_a_short_clip_is_padded_with_zeros_before_it_is_normalised(audio: AudioSpec) -> None:
    (got,) = clip_fbanks([clip(np.random.default_rng(1).uniform(-1, 1, 4800))], audio)
    assert got.shape == (1, 128, 204)
    assert (got[0, :, 28:] == np.float32(-audio.normalise.mean) / np.float32(audio.normalise.std)).all()
    assert (got[0, :, :28] != got[0, 0, 28]).any()


def test_only_the_first_channel_is_heard_and_the_mean_is_that_of_all(audio: AudioSpec) -> None:
    left = np.random.default_rng(2).uniform(-1, 1, 4000)
    (mono,) = clip_fbanks([clip(left)], audio)
    (stereo,) = clip_fbanks([clip(np.stack([left, np.full(4000, 0.25)]))], audio)
    np.testing.assert_allclose(stereo, mono, atol=2e-3)


def test_an_overlapping_clip_finds_what_the_one_before_left(audio: AudioSpec) -> None:
    samples = np.random.default_rng(3).uniform(-0.1, 0.1, 48000) + np.linspace(0, 1, 48000)
    first, second = clip_fbanks([clip(samples[:32000]), clip(samples[16000:], 16000)], audio)
    changed = samples.copy()
    changed[:32000] -= samples[:32000].mean()
    np.testing.assert_allclose(first, clip_fbanks([clip(changed[:32000])], audio)[0], atol=1e-4)
    np.testing.assert_allclose(second, clip_fbanks([clip(changed[16000:])], audio)[0], atol=1e-4)
    alone = clip_fbanks([clip(samples[16000:])], audio)[0]
    assert np.abs(second - alone).max() > 0.05


def test_clips_begin_an_eighth_of_what_is_left_apart(audio: AudioSpec) -> None:
    assert clip_bounds(10 * 16000, audio) == [(16000 * i, 16000 * i + 32000) for i in range(8)]
    assert clip_bounds(32000, audio) == [(0, 32000)] * 8
    assert clip_bounds(4800, audio) == [(0, 4800)] * 8


def test_clips_lie_within_the_sound_and_have_one_length(audio: AudioSpec) -> None:
    for count in range(32000, 40 * 16000, 9973):
        bounds = clip_bounds(count, audio)
        assert len(bounds) == audio.num_clips
        assert all(0 <= first < last <= count and last - first in (32000, 31999) for first, last in bounds), count
        assert bounds == sorted(bounds), count


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": np.zeros((1, 800))}, "sound is float64 (1, 800) and the encoder takes float32 (channels, n)"),
        ({"data": np.zeros((1, 800), np.int16)}, "sound is int16 (1, 800) and the encoder takes float32 (channels, n)"),
        ({"data": np.zeros(800, np.float32)}, "sound is float32 (800,) and the encoder takes float32 (channels, n)"),
        ({"data": np.zeros((0, 800), np.float32)}, "sound is float32 (0, 800) and the encoder takes float32"),
        ({"data": [0.0]}, "sound is list and the encoder takes float32 (channels, n)"),
        ({"data": np.full((1, 800), np.nan, np.float32)}, "sound from 0.0 s is not finite"),
        ({"start": float("inf")}, "sound from inf s is not finite"),
        ({"sample_rate": 44100}, "sound is at 44100 Hz and the encoder takes 16000 Hz; resample it"),
    ],
)
def test_sound_of_another_kind_is_refused(audio: AudioSpec, change: dict[str, Any], said: str) -> None:
    right = Samples(0.0, np.zeros((1, 800), np.float32), 16000)
    with pytest.raises(ShapeError) as error:
        clip_fbanks([right, replace(right, **change)], audio)
    assert said in str(error.value)
    with pytest.raises(ShapeError, match="there is no sound to encode"):
        clip_fbanks([], audio)
