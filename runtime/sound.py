"""The sound of a file at the encoder's sample rate: how much there is, and stretches of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .errors import MediaError
from .media import MediaInfo
from .resample import Resampler, resampled_count
from .soundtrack import count_by_clock, read_blocks
from .types import Float32, Samples


def read_sound(info: MediaInfo) -> Iterator[Samples]:
    """All sound, block by block: every channel at the file's own rate, in [-1, 1], silence where the file has a gap.

    Raises:
        DecodeError: it cannot be decoded, changes its rate on the way, or holds what is no number.
    """
    for block in read_blocks(info.path, info.heard):
        yield Samples(info.sound_start + block.first / block.rate, block.data(), block.rate)


def count_samples(info: MediaInfo, sample_rate: int) -> int:
    """How many samples the whole sound has at sample_rate Hz; it is decoded for that where the file only estimates it.

    Raises:
        DecodeError: it cannot be decoded.
        MediaError: there is none.
    """
    counted = count_by_clock(info.path) if info.counts_by_clock else None
    count, rate = counted or (0, sample_rate)
    if counted is None:
        for block in read_blocks(info.path, info.heard):
            count, rate = block.first + block.count, block.rate
    if not count:
        raise MediaError(f"{info.path}: its audio track is empty; give another clip, or use --no-audio")
    return resampled_count(count, rate, sample_rate)


def read_samples(info: MediaInfo, bounds: Sequence[tuple[int, int]], sample_rate: int) -> Iterator[Samples]:
    """The stretches [first, last) of the sound at sample_rate Hz, one after the other, in one pass over the file.

    All of it up to the last stretch is decoded: what a decoder makes of a packet may depend on all packets before it,
    as the noise of AAC does.

    Args:
        bounds: ascending in both; they may overlap. No more of the sound is kept than the next one reaches over.

    Raises:
        DecodeError: it cannot be decoded.
    """
    source = _Stretches(info, sample_rate)
    for first, last in bounds:
        yield Samples(info.sound_start + first / sample_rate, source.read(first, last), sample_rate)


class _Stretches:
    """Resamples what stretches need, in one pass over the sound."""

    def __init__(self, info: MediaInfo, sample_rate: int) -> None:
        self._blocks = read_blocks(info.path, info.heard)
        self._block = next(self._blocks, None)
        self._rates = (self._block.rate if self._block is not None else sample_rate, sample_rate)
        self._resampler = Resampler(*self._rates)
        self._taken = 0  # samples of the file
        self._is_finished = False
        self._kept, self._begin = np.zeros((1, 0), np.float32), 0

    def read(self, first: int, last: int) -> Float32:
        """float32 (channels, n); n is less than last - first where the sound ends before."""
        taken, made = self._resampler.begin_for(first)
        if taken > self._taken:  # nothing that is there already is needed
            self._resampler = Resampler(*self._rates)
            self._taken, self._kept, self._begin = taken, self._kept[:, :0], made
        while self._begin + self._kept.shape[1] < last and (more := self._more()) is not None:
            self._kept = np.concatenate((self._kept, more), 1) if self._kept.shape[1] else more
            gone = min(max(first - self._begin, 0), self._kept.shape[1])
            self._kept, self._begin = self._kept[:, gone:], self._begin + gone
        return np.ascontiguousarray(self._kept[:, max(first - self._begin, 0) : last - self._begin])

    def _more(self) -> Float32 | None:
        """What another block becomes, or the rest; None after that."""
        while self._block is not None and self._block.first + self._block.count <= self._taken:
            self._block = next(self._blocks, None)
        if self._block is not None:
            begin, self._taken = self._taken, self._block.first + self._block.count
            return self._resampler.push(self._block.data()[:, begin - self._block.first :])
        if self._is_finished:
            return None
        self._is_finished = True
        rest = self._resampler.finish()
        return rest if rest.size else None
