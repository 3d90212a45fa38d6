"""The runtime's filterbank for a batch of equally long sounds, in torch: training computes hundreds a second."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from vllama.runtime.spec import AudioSpec

_PRE_EMPHASIS, _LOW_HZ, _FLOOR = 0.97, 20.0, 1.1920929e-07


def batched_fbank(samples: Tensor, spec: AudioSpec) -> Tensor:
    """What `runtime.fbank.clip_fbanks` gives for each sound alone.

    Args:
        samples: float32 (n, count), [-1, 1], at spec.sample_rate.

    Returns:
        float32 (n, 1, num_mel_bins, target_length), normalised.
    """
    mel = log_mel(samples, spec)
    padded = torch.zeros(len(mel), spec.num_mel_bins, spec.target_length)
    padded[..., : mel.shape[-1]] = mel[..., : spec.target_length]
    return ((padded - spec.normalise.mean) / spec.normalise.std)[:, None]


def log_mel(samples: Tensor, spec: AudioSpec) -> Tensor:
    """(n, count) -> (n, num_mel_bins, frames), natural logarithm."""
    length = int(spec.frame.length_ms * spec.sample_rate / 1000.0)
    shift = int(spec.frame.shift_ms * spec.sample_rate / 1000.0)
    frames = (samples - samples.mean(1, keepdim=True)).unfold(1, length, shift)
    frames = frames - frames.mean(-1, keepdim=True)
    frames = frames - _PRE_EMPHASIS * torch.cat((frames[..., :1], frames[..., :-1]), -1)
    fft = 1 << (length - 1).bit_length()
    spectrum = torch.fft.rfft(frames * torch.hann_window(length, periodic=False), fft)
    power = spectrum.real.square() + spectrum.imag.square()
    mel = power[..., :-1] @ _triangles(spec.num_mel_bins, fft, spec.sample_rate)
    out: Tensor = mel.clamp(min=_FLOOR).log().transpose(1, 2)
    return out


@functools.cache
def _triangles(bins: int, fft: int, sample_rate: int) -> Tensor:
    """(fft / 2, bins): triangles equally spaced in mel from 20 Hz to half the sample rate."""
    hertz = torch.arange(fft // 2, dtype=torch.float64) * sample_rate / fft
    low, high = (1127.0 * torch.log1p(torch.tensor(f / 700.0, dtype=torch.float64)) for f in (_LOW_HZ, sample_rate / 2))
    edges = low + (high - low) * torch.arange(bins + 2, dtype=torch.float64) / (bins + 1)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    at = (1127.0 * torch.log1p(hertz / 700.0))[:, None]
    return torch.minimum((at - left) / (centre - left), (right - at) / (right - centre)).clamp(min=0).float()
