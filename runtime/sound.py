"""The sound of a file at the encoder's sample rate: how much there is, and stretches of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .errors import MediaError
from .media import MediaInfo, read_sound
from .resample import Resampler, resampled_count
from .types import Float32, Samples


def count_samples(info: MediaInfo, sample_rate: int) -> int:
    """How many samples the whole sound has at sample_rate Hz; it is decoded for that, containers only estimate it.

    Raises:
        DecodeError: it cannot be decoded.
        MediaError: there is none.
    """
    count, rate = 0, sample_rate
    for block in read_sound(info):
        count, rate = count + block.data.shape[1], block.sample_rate
    if not count:
        raise MediaError(f"{info.path}: its audio track is empty; give another clip, or use --no-audio")
    return resampled_count(count, rate, sample_rate)


def read_samples(info: MediaInfo, bounds: Sequence[tuple[int, int]], sample_rate: int) -> Iterator[Samples]:
    """The stretches [first, last) of the sound at sample_rate Hz, one after the other, in one pass over the file.

    Args:
        bounds: ascending in both; they may overlap. No more of the sound is kept than the next one reaches over.

    Raises:
        DecodeError: it cannot be decoded.
    """
    kept, begin = np.zeros((1, 0), np.float32), 0
    source = _resampled(info, sample_rate)
    for first, last in bounds:
        while begin + kept.shape[1] < last and (block := next(source, None)) is not None:
            kept = np.concatenate((kept, block), 1) if kept.shape[1] else block
            gone = min(max(first - begin, 0), kept.shape[1])
            kept, begin = kept[:, gone:], begin + gone
        data = np.ascontiguousarray(kept[:, max(first - begin, 0) : last - begin])
        yield Samples(info.sound_start + first / sample_rate, data, sample_rate)


def _resampled(info: MediaInfo, sample_rate: int) -> Iterator[Float32]:
    resampler = None
    for block in read_sound(info):
        resampler = resampler or Resampler(block.sample_rate, sample_rate)
        if (made := resampler.push(block.data)).size:
            yield made
    if resampler is not None:
        yield resampler.finish()
