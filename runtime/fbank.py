"""Sound -> the filterbanks that the audio encoder takes."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from .errors import MediaError, ShapeError
from .spec import AudioSpec
from .types import Float32, Samples, kind_of

_PRE_EMPHASIS = 0.97
_LOW_HZ = 20.0
_FLOOR = 1.1920929e-07  # float32 epsilon, under which Kaldi's logarithm does not go


def clip_bounds(count: int, spec: AudioSpec) -> list[tuple[int, int]]:
    """The num_clips stretches of the whole-clip rule, as (first, last + 1) samples.

    They begin at 0, d, 2 d, ... with d = (duration - clip_seconds) / num_clips, so the last one ends before the sound
    does; sound shorter than a clip is taken whole, num_clips times.

    Args:
        count: samples of the whole sound at spec.sample_rate.

    Source: Video-LLaMA 64888c0, video_llama/models/ImageBind/data.py, with the rational arithmetic of pytorchvideo
    0.1.5, ConstantClipsPerVideoSampler.
    """
    step = Fraction(max(count / spec.sample_rate - spec.clip_seconds, 0.0)) / spec.num_clips
    starts = [step * number for number in range(spec.num_clips)]
    ends = [start + Fraction(spec.clip_seconds) for start in starts]
    return [
        (int(start * spec.sample_rate), min(int(end * spec.sample_rate), count))
        for start, end in zip(starts, ends, strict=True)
    ]


def clip_fbanks(clips: Sequence[Samples], spec: AudioSpec) -> list[Float32]:
    """One filterbank (1, num_mel_bins, target_length) per clip of one recording.

    The mean of a clip is removed from the recording itself, as upstream does it: where clips overlap, a later one finds
    what the earlier ones left, with a step where one of them ended.

    Args:
        clips: at least one, at spec.sample_rate, in the order of the recording.

    Raises:
        ShapeError: they are not as `Samples` says, not finite, or at another rate.
        MediaError: a clip is shorter than one analysis window.

    Source: Video-LLaMA 64888c0, video_llama/models/ImageBind/data.py, waveform2melspec.
    """
    if not clips:
        raise ShapeError("there is no sound to encode; give at least one clip")
    removed: list[tuple[int, int, np.float32]] = []
    fbanks = []
    for clip in clips:
        _check(clip, spec)
        first = round((clip.start - clips[0].start) * spec.sample_rate)
        data = clip.data.copy()
        for start, end, mean in removed:
            data[:, max(start - first, 0) : max(end - first, 0)] -= mean
        mean = data.mean(dtype=np.float32)
        data -= mean
        removed.append((first, first + data.shape[1], mean))
        fbanks.append(_normalised(fbank(data[0], spec), spec)[None])
    return fbanks


def fbank(samples: Float32, spec: AudioSpec) -> Float32:
    """Kaldi log-mel filterbank of one channel.

    Args:
        samples: float32 (n,), [-1, 1], at spec.sample_rate.

    Returns:
        float32 (num_mel_bins, frames), natural log; no frame goes beyond the end.

    Raises:
        MediaError: fewer samples than one analysis window.

    Source: torchaudio 0.13, compliance/kaldi.py, fbank with htk_compat and no dither.
    """
    length = int(spec.frame.length_ms * spec.sample_rate / 1000.0)
    shift = int(spec.frame.shift_ms * spec.sample_rate / 1000.0)
    if len(samples) < length:
        raise MediaError(
            f"{len(samples) / spec.sample_rate * 1000:.0f} ms of sound are less than one analysis window of "
            f"{spec.frame.length_ms:.0f} ms; use a longer clip or --no-audio"
        )
    frames = np.lib.stride_tricks.sliding_window_view(samples, length)[::shift].astype(np.float64)
    frames -= frames.mean(1, keepdims=True)
    frames -= _PRE_EMPHASIS * np.concatenate((frames[:, :1], frames[:, :-1]), 1)
    padded = 1 << (length - 1).bit_length()
    power = np.abs(np.fft.rfft(frames * np.hanning(length), padded)) ** 2  # (frames, padded / 2 + 1)
    mel = power[:, :-1] @ _mel_triangles(spec.num_mel_bins, padded, spec.sample_rate)
    log_mel: Float32 = np.log(np.maximum(mel, _FLOOR)).T.astype(np.float32)
    return log_mel


def _check(clip: Samples, spec: AudioSpec) -> None:
    data = clip.data
    if not isinstance(data, np.ndarray) or data.dtype != np.float32 or data.ndim != 2 or not len(data):
        raise ShapeError(f"sound is {kind_of(data)} and the encoder takes float32 (channels, n); convert it to that")
    if clip.sample_rate != spec.sample_rate:
        raise ShapeError(f"sound is at {clip.sample_rate} Hz and the encoder takes {spec.sample_rate} Hz; resample it")
    if not (np.isfinite(data).all() and math.isfinite(clip.start)):
        raise ShapeError(f"sound from {clip.start} s is not finite; give numbers from -1 to 1")


def _normalised(mel: Float32, spec: AudioSpec) -> Float32:
    """Cut or padded to target_length, then normalised: padding is 0 before, and so looks loud after."""
    padded = np.zeros((spec.num_mel_bins, spec.target_length), np.float32)
    padded[:, : mel.shape[1]] = mel[:, : spec.target_length]
    return (padded - np.float32(spec.normalise.mean)) / np.float32(spec.normalise.std)


@functools.cache
def _mel_triangles(bins: int, padded: int, sample_rate: int) -> np.ndarray:
    """(padded / 2, bins): triangles equally spaced in mel from 20 Hz to half the sample rate."""

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return np.asarray(1127.0 * np.log1p(np.asarray(hertz) / 700.0))

    edges = np.linspace(mel(_LOW_HZ), mel(sample_rate / 2), bins + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bin_mels = mel(np.arange(padded // 2) * sample_rate / padded)[:, None]
    up, down = (bin_mels - left) / (centre - left), (right - bin_mels) / (right - centre)
    triangles: np.ndarray = np.maximum(0.0, np.minimum(up, down))
    return triangles
