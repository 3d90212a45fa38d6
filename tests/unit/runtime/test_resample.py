"""The windowed sinc against its formula, written out sample by sample."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from vllama.runtime.resample import Resampler, resampled_count

_RATES = [8000, 11025, 22050, 32000, 44100, 48000, 96000, 16001]


def by_formula(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    """torchaudio's sinc_interpolation (width 6, rolloff 0.99): y[n] = sum x[i] h(i / rate - n / target).

    Its times are float32 numbers, counted from the start of each period of the two rates.
    """
    divisor = math.gcd(rate, target)
    step, made = rate // divisor, target // divisor
    cutoff = 0.99 * min(step, made)
    out = np.zeros(math.ceil(len(samples) * made / step))
    for n in range(len(out)):
        period, phase = divmod(n, made)
        for i, sample in enumerate(samples, -period * step):
            if abs(i / step - phase / made) * cutoff > 6.1:
                continue
            time = (np.float32(-phase) / np.float32(made) + np.float32(i) / np.float32(step)) * np.float32(cutoff)
            if abs(time) < 6:
                sinc = 1.0 if time == 0 else math.sin(math.pi * time) / (math.pi * time)
                out[n] += sample * sinc * math.cos(math.pi * time / 12) ** 2 * cutoff / step
    return out


def resampled(samples: np.ndarray, rate: int, target: int, pieces: list[int]) -> np.ndarray:
    """Pieces of these sizes, the last of them over and over."""
    resampler, made, first = Resampler(rate, target), list[np.ndarray](), 0
    while first < samples.shape[1]:
        size = pieces[min(len(made), len(pieces) - 1)]
        made.append(resampler.push(samples[:, first : first + size]))
        first += size
    return np.concatenate([*made, resampler.finish()], 1)


@pytest.mark.parametrize("rate", _RATES)
def test_samples_are_those_of_the_formula(rate: int) -> None:
    samples = np.random.default_rng(rate).uniform(-1, 1, (2, 400)).astype(np.float32)
    got = resampled(samples, rate, 16000, [400])
    wanted = np.stack([by_formula(channel, rate, 16000) for channel in samples])
    assert (got.shape, got.dtype.name) == (wanted.shape, "float32")
    np.testing.assert_allclose(got, wanted, atol=2e-6)


@pytest.mark.parametrize("pieces", [[37], [1021], [3, 1, 4000, 17], [9000]])
@pytest.mark.parametrize("rate", _RATES)
def test_pieces_together_are_what_the_whole_becomes(rate: int, pieces: list[int]) -> None:
    samples = np.random.default_rng(1).uniform(-1, 1, (1, 20000)).astype(np.float32)
    whole = resampled(samples, rate, 16000, [20000])
    got = resampled(samples, rate, 16000, pieces)
    assert whole.shape == (1, resampled_count(20000, rate, 16000))
    np.testing.assert_allclose(got, whole, atol=1e-7, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 159, 160, 161, 441])
def test_the_last_sample_is_rounded_up(count: int) -> None:
    for rate in _RATES:
        got = resampled(np.ones((1, count), np.float32), rate, 16000, [count])
        assert got.shape[1] == math.ceil(count * 16000 / rate), rate


def test_the_rate_that_is_wanted_passes_through() -> None:
    samples = np.random.default_rng(2).uniform(-1, 1, (3, 50)).astype(np.float32)
    resampler = Resampler(16000, 16000)
    assert resampler.push(samples) is samples
    assert resampler.finish().size == 0


@pytest.mark.parametrize("rate", _RATES)
def test_one_that_begins_later_makes_the_same_bit_for_bit(rate: int) -> None:
    samples = np.random.default_rng(3).uniform(-1, 1, (2, 4 * rate)).astype(np.float32)
    whole = resampled(samples, rate, 16000, [1024])
    for number in (0, 1, 20000, 33333, 50001):
        taken, made = Resampler(rate, 16000).begin_for(number)
        assert made <= number
        part = resampled(samples[:, taken:], rate, 16000, [700])
        np.testing.assert_array_equal(part[:, number - made :], whole[:, number:], err_msg=str(number))


def test_nothing_pushed_becomes_nothing() -> None:
    assert Resampler(44100, 16000).finish().shape == (1, 0)


def test_rates_without_a_common_divisor_need_little_memory() -> None:
    tracemalloc.start()
    resampled(np.zeros((2, 20000), np.float32), 44101, 16000, [1024])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6, peak
