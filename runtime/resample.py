"""Sound at another sample rate: a windowed sinc, block by block."""

from __future__ import annotations

import math

import numpy as np

from .types import Float32

_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
_BLOCK_PERIODS = 256  # periods of the two rates that are resampled in one product


def resampled_count(count: int, rate: int, target: int) -> int:
    """How many samples `count` samples become."""
    return -(-count * target // rate)


class Resampler:
    """Resamples a stream; the pieces together are what the whole would have become.

    Source: torchaudio 0.13, functional/functional.py, resample with sinc_interpolation, width 6 and rolloff 0.99.
    """

    def __init__(self, rate: int, target: int) -> None:
        """Args: rate, target: Hz."""
        divisor = math.gcd(rate, target)
        self._step, self._made = rate // divisor, target // divisor
        self._kernel, self._width = _kernel(self._step, self._made)
        self._buffer: Float32 | None = None
        self._taken = self._given = 0

    def push(self, samples: Float32) -> Float32:
        """float32 (channels, n) -> (channels, m), as much as can be computed so far."""
        if self._step == self._made:
            return samples
        if self._buffer is None:
            self._buffer = np.zeros((samples.shape[0], self._width), np.float32)
        self._taken += samples.shape[1]
        self._buffer = np.concatenate((self._buffer, samples), 1)
        return self._drain()

    def finish(self) -> Float32:
        """The rest (channels, m), once everything was pushed."""
        if self._buffer is None:
            return np.zeros((1, 0), np.float32)
        self._buffer = np.pad(self._buffer, ((0, 0), (0, self._width + self._step)))
        missing = resampled_count(self._taken, self._step, self._made) - self._given
        return self._drain()[:, :missing]

    def _drain(self) -> Float32:
        assert self._buffer is not None
        window = self._kernel.shape[0]
        periods = max((self._buffer.shape[1] - window) // self._step + 1, 0)
        made = []
        for first in range(0, periods, _BLOCK_PERIODS):
            last = min(first + _BLOCK_PERIODS, periods)
            part = self._buffer[:, first * self._step : (last - 1) * self._step + window]
            windows = np.lib.stride_tricks.sliding_window_view(part, window, 1)[:, :: self._step]
            made.append((np.ascontiguousarray(windows) @ self._kernel).reshape(len(part), -1))
        self._buffer = self._buffer[:, periods * self._step :]
        self._given += periods * self._made
        return np.concatenate(made, 1) if made else np.zeros((len(self._buffer), 0), np.float32)


def _kernel(step: int, made: int) -> tuple[Float32, int]:
    """(window, made): column i gives output i of each period of `step` inputs; the window begins `width` before it."""
    cutoff = min(step, made) * _ROLLOFF
    width = math.ceil(_ZERO_CROSSINGS * step / cutoff)
    # In float32 throughout, as the original's kernel was: its rounding is heard in quiet bins of a filterbank.
    inputs = np.arange(-width, width + step, dtype=np.float32)[:, None] / np.float32(step)
    outputs = np.arange(0, -made, -1, dtype=np.float32)[None, :] / np.float32(made)
    time = np.clip((outputs + inputs) * np.float32(cutoff), -_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = np.cos(time * np.float32(np.pi) / _ZERO_CROSSINGS / 2) ** 2
    angle = time * np.float32(np.pi)
    sinc = np.where(angle == 0, np.float32(1), np.sin(angle) / np.where(angle == 0, np.float32(1), angle))
    return sinc * (window * np.float32(cutoff / step)), width
