"""Long video in few frames: frame features merged as they come, and positions beyond the table.

Training-free, as published for these weights: MovieChat (arXiv 2307.16449) and MovieChat+ (arXiv 2404.17176). It works
between the per-frame features and the video Q-former, and the language model sees as many tokens as before.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .types import Float32, Span

Features = NDArray[np.floating]  # (query_tokens, hidden_size) of one frame, float16 as stored or float32
Means = NDArray[np.float64]

SHORT = 18  # frames of the short memory
FRAGMENT = 8  # frames that are merged together
KEPT = 2  # frames that are left of a fragment
ROWS = 16  # rows of the position table that are decomposed
ALPHA = 0.01


@dataclass(frozen=True)
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
    weight: float
    mean: Means = field(repr=False)


@dataclass(frozen=True)
class _Fragment:
    """What is left of consecutive pictures: how many they were, and the frames that stand for them."""

    pictures: int
    frames: tuple[_Kept, ...]


def position_count(table_rows: int, rows: int = ROWS) -> int:
    """How many positions `extended_positions` can give, and so how many frames a memory may have."""
    return min(rows, table_rows) ** 2


def extended_positions(table: Float32, count: int, rows: int = ROWS, alpha: float = ALPHA) -> Float32:
    """Positions for more frames than the table has rows, by hierarchical decomposition.

    With p the first `rows` rows: u_i = (p_i - alpha p_0) / (1 - alpha), and position i * rows + j is
    alpha u_i + (1 - alpha) u_j. For i = 0 that is p_j: up to `rows` frames, the table's own rows are given, to the bit.

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
    u = (p - alpha * p[0]) / (1 - alpha)
    grid = (alpha * u[:, None] + (1 - alpha) * u[None]).astype(np.float32)
    grid[0] = table[:rows]
    return np.ascontiguousarray(grid.reshape(rows * rows, -1)[:count])


def fragment_size(count: int, limit: int, kept: int = KEPT) -> int:
    """The smallest fragments with which `count` frames fit `limit`; `kept`, that is nothing merged, where all fit.

    Published are 128 fragments for a video of any length: 8 for 1024 frames, kept 2, limit 256.
    """
    return max(kept, math.ceil(count / (limit // kept)))


def novelty(features: Sequence[Features] | NDArray[np.floating], short: int = SHORT) -> NDArray[np.float64]:
    """Weights from the features alone: how far each frame is from all of the `short` frames before it.

    A still picture has 0, the frame least like what was just seen 1; cutting back to a known view counts as known. The
    first frame has 0: it differs from nothing. Distances are between means over tokens, as the similarity of `Memory`.

    Args:
        features: one array (query_tokens, hidden_size) per frame.

    Returns:
        (t,), [0, 1].
    """
    means = np.array([frame.mean(0, dtype=np.float64) for frame in features])  # (t, hidden_size)
    nearest = np.full(len(means), np.inf)
    for lag in range(1, min(short, len(means) - 1) + 1):
        nearest[lag:] = np.minimum(nearest[lag:], np.linalg.norm(means[lag:] - means[:-lag], axis=1))
    nearest[:1] = 0.0
    return nearest / (nearest.max(initial=0.0) or 1.0)


class Memory:
    """Short and long memory of a video, kept up to date frame by frame.

    Each `fragment` of frames that is complete is merged: the most similar neighbours (mean inner product of their
    tokens, the first of equals) become their average, until `kept` are left, and those are appended to the long
    memory. Where that makes more than `limit`, the two neighbouring fragments of the fewest pictures (the oldest of
    equals) become one by the same rule. So a video of any length fits, its fragments are alike to a factor of about
    2.5, and neither the state nor the cost of a frame or a question grows with it.

    Weights: a frame of weight 1 is merged only when no neighbours of weight 0 are left in its fragment; between, the
    weight counts against the similarity, scaled to 0..1 among the pairs at hand. A merged frame has the larger weight.
    All equal, which is the default, is MovieChat's rule. MovieChat+ weights frames by CLIP similarity to the
    question; these models have no text tower in that space, so whoever has a score gives it (`novelty` needs no
    question). Its release keeps 1 or 3 frames of a fragment whose mean score is below or above a fixed 0.25; `over`
    gives the half of the fragments with the larger means one frame more and the other half one less, whatever the
    scale of the scores.

    Beside this, what differs from the release: averages are float32 and similarities float64; fragments are merged
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
        self._complete = 0  # fragments
        self._kept = kept
        self._keeps: list[int] = []  # frames to keep of the first fragments, where `over` gave weights
        self._count = 0
        self._recent: deque[_Kept] = deque(maxlen=short + 1)  # the short memory and the newest frame
        self._pending: list[_Kept] = []  # of the fragment that is not complete
        self._long: list[_Fragment] = []
        self._lock = threading.Lock()

    @classmethod
    def over(
        cls,
        times: Sequence[float],
        features: Sequence[Features] | NDArray[np.floating],
        limit: int,
        *,
        weights: Sequence[float] | NDArray[np.floating] | None = None,
        num_frames: int = 8,
        short: int = SHORT,
        kept: int = KEPT,
    ) -> Memory:
        """The memory of frames that are all there, with the smallest fragments that fit.

        Args:
            times: ascending. features: one array per frame. weights: [0, 1] each, see the class.
        """
        size = fragment_size(len(times), limit, kept)
        memory = cls(limit, num_frames=num_frames, short=short, fragment=size, kept=kept)
        weights = np.zeros(len(times)) if weights is None else np.asarray(weights, np.float64)
        if size > kept > 1:
            memory._keeps = _keeps([float(weights[i : i + size].mean()) for i in range(0, len(weights), size)], kept)
        for time, frame, weight in zip(times, features, weights, strict=True):
            memory.add(time, frame, float(weight))
        return memory

    def __len__(self) -> int:
        """How many frames came."""
        return self._count

    def add(self, time: float, features: Features, weight: float = 0.0) -> None:
        """Take one frame.

        Args:
            time: seconds, after that of the frame before. features: (query_tokens, hidden_size), float16 or float32.
        """
        frame = _frame(time, math.inf, features, weight)
        with self._lock:
            self._close(time)
            self._count += 1
            self._recent.append(frame)
            self._pending.append(frame)
            if len(self._pending) == self._size:
                self._long = _fitting([*self._long, self._fragment(self._pending)], self._limit)
                self._pending = []
                self._complete += 1

    def end(self, time: float) -> None:
        """The video ends: the newest frame stands for the seconds until then."""
        with self._lock:
            self._close(time)

    def frames(self, span: Span | None = None) -> MemoryFrames:
        """For a question about all of it: the whole long memory, the incomplete fragment merged likewise.

        Args:
            span: only what stands for some of these seconds, counted from the start. For fine detail of a short span
                take a memory `over` the frames of that span.
        """
        with self._lock:
            count, recent, pending, long = self._count, list(self._recent), list(self._pending), list(self._long)
        if count <= self._num_frames:
            kept = recent
        else:
            kept = _frames(_fitting([*long, self._fragment(pending)] if pending else long, self._limit))
        if span is not None:
            kept = [frame for frame in kept if frame.start <= span.end and _end(frame) >= span.start]
        return _memory_frames(kept)

    def frames_now(self) -> MemoryFrames:
        """For a question about the newest moment: long memory, short memory, newest frame."""
        with self._lock:
            count, recent, pending, long = self._count, list(self._recent), list(self._pending), list(self._long)
        if count <= self._num_frames:
            return _memory_frames(recent)
        return self._moment(long, pending[: max(0, len(pending) - len(recent))], recent)

    def frames_at(
        self, moment: float, times: Sequence[float], features: Sequence[Features] | NDArray[np.floating]
    ) -> MemoryFrames:
        """For a question about a moment: what `frames_now` would have given then, as far as the long memory still can.

        The frame is the last one until the moment (the first one before all). The long memory up to it is that of
        the fragments that were complete; as published, the unmerged short memory shows the newest of them again.

        Args:
            times, features: the frames that came, in order, as they are stored; only some twenty are read, plus what
                lies between the last complete fragment and the short memory. What was forgotten since is seen merged.
        """
        assert len(times) == len(features) > 0, (len(times), len(features))
        now = max(0, bisect_right(times, moment) - 1)

        def stored(first: int, stop: int) -> list[_Kept]:
            ends = [*times[first + 1 : stop + 1], math.inf]
            return [_frame(float(times[i]), float(ends[i - first]), features[i]) for i in range(first, stop)]

        with self._lock:
            long = [fragment for fragment in self._long if fragment.frames[-1].last <= times[now]]
        forgotten = bool(long) and long[0].frames[0].start < times[0]
        if now < self._num_frames and not forgotten:
            return _memory_frames(stored(0, now + 1))
        done = bisect_right(times, long[-1].frames[-1].last) if long else 0
        window = max(0, now - self._short)
        return self._moment(long, stored(done, window), stored(window, now + 1))

    def _moment(self, long: list[_Fragment], between: list[_Kept], recent: list[_Kept]) -> MemoryFrames:
        before = [*_frames(long), *_merged(between, self._kept)]
        return _memory_frames([*_merged(before, self._limit - len(recent)), *recent])

    def _fragment(self, pictures: Sequence[_Kept]) -> _Fragment:
        number = self._complete
        kept = self._keeps[number] if number < len(self._keeps) else self._kept
        return _Fragment(len(pictures), tuple(_merged(pictures, kept)))

    def _close(self, time: float) -> None:
        for frame in (*list(self._recent)[-1:], *_frames(self._long[-1:])[-1:]):
            if frame.end == math.inf:
                assert time >= frame.last, (time, frame.last)
                frame.end = time


def _keeps(means: list[float], kept: int) -> list[int]:
    """How many frames each fragment keeps: one more in the half with the larger mean weights, one less in the other."""
    keeps = [kept] * len(means)
    if min(means, default=0.0) < max(means, default=0.0):
        order = sorted(range(len(means)), key=means.__getitem__)
        for less, more in zip(order[: len(order) // 2], order[::-1], strict=False):
            keeps[less], keeps[more] = kept - 1, kept + 1
    return keeps


def _frame(time: float, end: float, features: Features, weight: float = 0.0) -> _Kept:
    return _Kept(features, time, time, end, weight, features.mean(0, dtype=np.float64))


def _merged(frames: Sequence[_Kept], kept: int) -> list[_Kept]:
    """Merge the most similar neighbours until `kept` frames are left."""
    left = list(frames)
    alike = [_similarity(a, b) for a, b in pairwise(left)]
    while len(left) > kept:
        i = _first_to_merge(left, alike)
        left[i : i + 2] = [_average(left[i], left[i + 1])]
        del alike[i]
        for pair in (i - 1, i):
            if 0 <= pair < len(alike):
                alike[pair] = _similarity(left[pair], left[pair + 1])
    return left


def _first_to_merge(frames: Sequence[_Kept], alike: Sequence[float]) -> int:
    score = list(alike)
    if any(frame.weight != frames[0].weight for frame in frames):
        low, high = min(alike), max(alike)
        for i, similarity in enumerate(alike):
            heavier = max(frames[i].weight, frames[i + 1].weight)
            score[i] = (similarity - low) / ((high - low) or 1.0) - heavier
    return score.index(max(score))


def _similarity(a: _Kept, b: _Kept) -> float:
    return float(a.mean @ b.mean)


def _average(a: _Kept, b: _Kept) -> _Kept:
    features = np.add(a.features, b.features, dtype=np.float32)
    features *= 0.5
    return _Kept(features, a.start, b.last, b.end, max(a.weight, b.weight), (a.mean + b.mean) / 2)


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
