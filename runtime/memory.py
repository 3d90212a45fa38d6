"""Long video in few frames: frame features merged as they come, and positions beyond the table.

Training-free, as published for these weights: MovieChat (arXiv 2307.16449). It works between the per-frame features and
the video Q-former, and the language model sees as many tokens as before.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .types import Features, Float32

Means = NDArray[np.float64]

SHORT = 18  # frames of the short memory
FRAGMENT = 8  # frames that are merged together
KEPT = 2  # frames that are left of a fragment
ROWS = 16  # rows of the position table that are decomposed
_ALPHA = 0.01


@dataclass(frozen=True, eq=False)
class MemoryFrames:
    """What the video Q-former is given: float32 (m, query_tokens, hidden_size), and the seconds each stands for."""

    features: Float32
    times: tuple[tuple[float, float], ...]


@dataclass(eq=False)
class _Kept:
    """One frame of the memory: a picture or the average of several.

    start, last: times of its first and its last picture. end: time of the picture after those, infinite before it
    comes. mean: over the tokens; the mean of all inner products of two frames' tokens is the product of their means.
    """

    features: Features
    start: float
    last: float
    end: float
    mean: Means = field(repr=False)


@dataclass(frozen=True)
class _Fragment:
    """What is left of consecutive pictures: how many they were, and the frames that stand for them."""

    pictures: int
    frames: tuple[_Kept, ...]


def position_count(table_rows: int, rows: int = ROWS) -> int:
    """How many positions `extended_positions` can give, and so how many frames a memory may have."""
    return min(rows, table_rows) ** 2


def extended_positions(table: Float32, count: int, rows: int = ROWS) -> Float32:
    """Positions for more frames than the table has rows, by hierarchical decomposition.

    With p the first `rows` rows: u_i = (p_i - alpha p_0) / (1 - alpha), and position i * rows + j is
    alpha u_i + (1 - alpha) u_j, with an alpha of 0.01. For i = 0 that is p_j: up to `rows` frames, the table's own
    rows are given, to the bit.

    Args:
        table: (max_frames, hidden_size). count: at most `position_count`.

    Returns:
        float32 (count, hidden_size).

    Source: MovieChat ba9bb80, MovieChat/models/moviechat.py, encode_long_video, after Su Jianlin (2020).
    """
    rows = min(rows, len(table))
    assert 0 <= count <= rows * rows, (count, rows)
    if count <= rows:
        return np.array(table[:count], np.float32)
    p = table[:rows].astype(np.float64)
    u = (p - _ALPHA * p[0]) / (1 - _ALPHA)
    grid = (_ALPHA * u[:, None] + (1 - _ALPHA) * u[None]).astype(np.float32)
    grid[0] = table[:rows]
    return np.ascontiguousarray(grid.reshape(rows * rows, -1)[:count])


def fragment_size(count: int, limit: int) -> int:
    """The smallest fragments with which `count` frames fit `limit`; `KEPT`, that is nothing merged, where all fit.

    Published are 128 fragments for a video of any length: 8 for 1024 frames, kept 2, limit 256.
    """
    return max(KEPT, math.ceil(count / (limit // KEPT)))


class Memory:
    """Short and long memory of a video, kept up to date frame by frame.

    The newest frames are the short memory; what leaves it goes to the long memory. Each `fragment` of frames that is
    complete there is merged: the most similar neighbours (mean inner product of their tokens, the first of equals)
    become their average, until `kept` are left. Where that makes more than `limit`, the two neighbouring fragments of
    the fewest pictures (the oldest of equals) become one by the same rule. So a video of any length fits, its fragments
    are alike to a factor of about 2.5, and neither the state nor the cost of a frame or a question grows with it.

    What differs from the release: averages are float32 and similarities float64; fragments are merged
    again, as said; and where a question about a moment needs more than `limit` frames, the long memory is merged
    further instead of the short one losing its oldest. Frames given to `add` are kept as they are, not copied. All
    methods may be called from several threads; a question holds up `add` only while lists are copied.
    """

    def __init__(
        self, limit: int, *, num_frames: int = 8, short: int = SHORT, fragment: int = FRAGMENT, kept: int = KEPT
    ) -> None:
        """An empty memory.

        Args:
            limit: frames it may give, at most `position_count` of the table; room for short + 1 + kept at least.
            num_frames: up to that many frames it gives them as they came.
            fragment: `fragment_size` where the number of frames is known; `kept` for a stream merges only what it must.
        """
        assert 1 <= kept <= fragment, (kept, fragment)
        assert num_frames <= short, (num_frames, short)
        assert limit >= short + 1 + kept, (limit, short, kept)
        self._limit = limit
        self._num_frames = num_frames
        self._short = short
        self._size = fragment
        self._kept = kept
        self._count = 0
        self._recent = deque[_Kept]()  # the short memory and the newest frame
        self._pending: list[_Kept] = []  # of the fragment that is not complete
        self._long: list[_Fragment] = []
        self._lock = threading.Lock()

    @classmethod
    def over(
        cls,
        times: Sequence[float],
        features: Sequence[Features] | Features,
        limit: int,
        *,
        num_frames: int = 8,
    ) -> Memory:
        """The memory of frames that are all there, with the smallest fragments that fit.

        Args:
            times: ascending. features: one array per frame.
        """
        memory = cls(limit, num_frames=num_frames, fragment=fragment_size(len(times), limit))
        for time, frame in zip(times, features, strict=True):
            memory.add(time, frame)
        return memory

    def __len__(self) -> int:
        """How many frames came."""
        return self._count

    def add(self, time: float, features: Features) -> None:
        """Take one frame.

        Args:
            time: seconds, after that of the frame before. features: (query_tokens, hidden_size), float16 or float32.
        """
        frame = _Kept(features, time, time, math.inf, features.mean(0, dtype=np.float64))
        with self._lock:
            self._close(time)
            self._count += 1
            self._recent.append(frame)
            if len(self._recent) > self._short + 1:
                self._pending.append(self._recent.popleft())
            if len(self._pending) == self._size:
                self._long = self._with(self._long, self._pending)
                self._pending = []

    def frames(self) -> MemoryFrames:
        """For a question about all of it: the long memory, and what is not in it yet merged likewise."""
        with self._lock:
            count, recent, pending, long = self._count, list(self._recent), list(self._pending), list(self._long)
        if count <= self._num_frames:
            return _memory_frames(recent)
        newer = [*pending, *recent]
        for first in range(0, len(newer), self._size):
            long = self._with(long, newer[first : first + self._size])
        return _memory_frames(_frames(long))

    def frames_now(self) -> MemoryFrames:
        """For a question about the newest moment: long memory, short memory, newest frame."""
        with self._lock:
            recent, pending, long = list(self._recent), list(self._pending), list(self._long)
        before = [*_frames(long), *_merged(pending, self._kept)]
        return _memory_frames([*_merged(before, self._limit - len(recent)), *recent])

    def _with(self, long: Sequence[_Fragment], pictures: Sequence[_Kept]) -> list[_Fragment]:
        """The long memory and one fragment more."""
        return _fitting([*long, _Fragment(len(pictures), tuple(_merged(pictures, self._kept)))], self._limit)

    def _close(self, time: float) -> None:
        for frame in list(self._recent)[-1:]:
            if frame.end == math.inf:
                assert time >= frame.last, (time, frame.last)
                frame.end = time


def _merged(frames: Sequence[_Kept], kept: int) -> list[_Kept]:
    """Merge the most similar neighbours until `kept` frames are left."""
    left = list(frames)
    alike = [_similarity(a, b) for a, b in pairwise(left)]
    while len(left) > kept:
        i = alike.index(max(alike))
        left[i : i + 2] = [_average(left[i], left[i + 1])]
        del alike[i]
        for pair in (i - 1, i):
            if 0 <= pair < len(alike):
                alike[pair] = _similarity(left[pair], left[pair + 1])
    return left


def _similarity(a: _Kept, b: _Kept) -> float:
    return float(a.mean @ b.mean)


def _average(a: _Kept, b: _Kept) -> _Kept:
    features = np.add(a.features, b.features, dtype=np.float32)
    features *= 0.5
    return _Kept(features, a.start, b.last, b.end, (a.mean + b.mean) / 2)


def _fitting(fragments: Sequence[_Fragment], limit: int) -> list[_Fragment]:
    """Merge neighbouring fragments, the smallest first, until they have `limit` frames at most."""
    left = list(fragments)
    while sum(len(fragment.frames) for fragment in left) > limit:
        pictures = [a.pictures + b.pictures for a, b in pairwise(left)]
        i = pictures.index(min(pictures))
        most = max(len(left[i].frames), len(left[i + 1].frames))
        left[i : i + 2] = [_Fragment(pictures[i], tuple(_merged(_frames(left[i : i + 2]), most)))]
    return left


def _frames(fragments: Iterable[_Fragment]) -> list[_Kept]:
    return [frame for fragment in fragments for frame in fragment.frames]


def _end(frame: _Kept) -> float:
    return frame.last if frame.end == math.inf else frame.end


def _memory_frames(kept: Sequence[_Kept]) -> MemoryFrames:
    features = np.stack([frame.features for frame in kept]) if kept else np.empty((0, 0, 0))
    return MemoryFrames(features.astype(np.float32, copy=False), tuple((frame.start, _end(frame)) for frame in kept))
