"""Sound at another sample rate: a windowed sinc, block by block."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .types import Float32

_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
_BLOCK = 8192  # samples that are taken, and made, in one go


def resampled_count(count: int, rate: int, target: int) -> int:
    """How many samples `count` samples become."""
    return -(-count * target // rate)


class Resampler:
    """Resamples a stream; the pieces together are what the whole would have become.

    Source: torchaudio 0.13, functional/functional.py, resample with sinc_interpolation, width 6 and rolloff 0.99.
    """

    def __init__(self, rate: int, target: int, *, block: int = _BLOCK) -> None:
        """Args: rate, target: Hz. block: samples that are waited for before any are made, for speed."""
        self._least = block
        divisor = math.gcd(rate, target)
        self._step, self._made = rate // divisor, target // divisor
        self._first, self._kernel = _kernel(self._step, self._made)
        self._lead = -int(self._first[0])  # samples before the beginning that the first window reaches over
        self._buffer: Float32 | None = None  # begins where the window of sample `given` of a period begins, or before
        self._begin = -self._lead
        self._waiting: list[Float32] = []  # decoders hand over little at a time
        self._taken = self._given = 0

    def begin_for(self, number: int) -> tuple[int, int]:
        """Samples to leave out, and those that they would become: another one begun there makes `number` the same."""
        period = max((number * self._step // self._made - self._lead) // self._step, 0)
        return period * self._step, period * self._made

    def push(self, samples: Float32) -> Float32:
        """float32 (channels, n) -> (channels, m), as much as can be computed so far."""
        if self._step == self._made:
            return samples
        if self._buffer is None:
            self._buffer = np.zeros((samples.shape[0], self._lead), np.float32)
        self._taken += samples.shape[1]
        self._waiting.append(samples)
        if sum(piece.shape[1] for piece in self._waiting) < self._least:
            return samples[:, :0]
        self._buffer = np.concatenate((self._buffer, *self._waiting), 1)
        self._waiting.clear()
        return self._drain()

    def finish(self) -> Float32:
        """The rest (channels, m), once everything was pushed."""
        if self._buffer is None:
            return np.zeros((1, 0), np.float32)
        after = np.zeros((len(self._buffer), self._kernel.shape[1] + self._step), np.float32)
        self._buffer = np.concatenate((self._buffer, *self._waiting, after), 1)
        self._waiting.clear()
        return self._drain(resampled_count(self._taken, self._step, self._made))

    def _drain(self, end: int | None = None) -> Float32:
        """Samples `given` to `end`; None: as far as the buffer reaches."""
        assert self._buffer is not None
        made = [np.zeros((len(self._buffer), 0), np.float32)]
        if end is None:
            end = (self._begin + self._buffer.shape[1]) * self._made // self._step  # later ones reach beyond the buffer
        while self._given < end:
            numbers = np.arange(self._given, min(self._given + _BLOCK, end))
            periods, phases = np.divmod(numbers, self._made)
            starts = periods * self._step + self._first[phases] - self._begin
            ready = int(np.searchsorted(starts, self._buffer.shape[1] - self._kernel.shape[1], "right"))
            if not ready:
                break
            windows = np.lib.stride_tricks.sliding_window_view(self._buffer, self._kernel.shape[1], 1)
            made.append(np.einsum("cmk,mk->cm", windows[:, starts[:ready]], self._kernel[phases[:ready]]))
            self._given += ready
            gone = int(starts[ready - 1])
            self._buffer, self._begin = self._buffer[:, gone:], self._begin + gone
        return np.concatenate(made, 1)


def _kernel(step: int, made: int) -> tuple[NDArray[np.int64], Float32]:
    """first (made,): where the window of each sample of a period begins; its weights (made, window)."""
    cutoff = min(step, made) * _ROLLOFF
    reach = _ZERO_CROSSINGS * step / cutoff  # beyond it every weight is 0
    outputs = np.arange(made)
    first = np.ceil(outputs * step / made - reach).astype(np.int64)
    inputs = first[:, None] + np.arange(math.floor(2 * reach) + 1)
    # In float32 throughout, as the original's kernel was: its rounding is heard in quiet bins of a filterbank.
    shift = -outputs.astype(np.float32)[:, None] / np.float32(made)
    time = (shift + inputs.astype(np.float32) / np.float32(step)) * np.float32(cutoff)
    time = np.clip(time, -_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = np.cos(time * np.float32(np.pi) / _ZERO_CROSSINGS / 2) ** 2
    angle = time * np.float32(np.pi)
    sinc = np.where(angle == 0, np.float32(1), np.sin(angle) / np.where(angle == 0, np.float32(1), angle))
    return first, (sinc * (window * np.float32(cutoff / step))).astype(np.float32)
