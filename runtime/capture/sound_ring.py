"""The newest seconds of a microphone, and when each sample of them was captured."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from ..types import Float32

_DRIFT_BUCKETS, _BUCKET_SECONDS = 10, 1.0  # over which the least delay counts
_LOSS_SECONDS = 0.1  # a whole bucket that comes so much later than it should has lost samples before it
_TOLERANCE = 0.01  # seconds by which a clip may begin before what is there


@dataclass
class SampleClock:
    """When the samples of an unbroken stretch were captured.

    Every block says when its first sample was captured, give or take: a block can be delivered late, never early. So
    what counts is the earliest arrival: a block that comes before its time proves that all samples are earlier than was
    thought. A sound card whose crystal is slower than the clock shows in that even the least delay of the last seconds
    grows; all samples are then moved by it. The kept samples are seconds long, in which two crystals part by less than
    a millisecond, so one number for all of them is enough.
    """

    rate: int
    zero: float  # when sample 0 was captured
    _least: deque[float] = field(default_factory=lambda: deque(maxlen=_DRIFT_BUCKETS))
    _bucket: float = 0.0  # end of the newest, in seconds of sound

    def time(self, sample: int) -> float:
        """When that sample of the stretch was captured."""
        return self.zero + sample / self.rate

    def hear(self, first: int, captured: float) -> float:
        """A block that begins with that sample was captured then, says its source; seconds that were lost before it."""
        late = captured - self.time(first)
        if late < 0:
            self.zero += late
            self._least = deque((least - late for least in self._least), maxlen=_DRIFT_BUCKETS)
            late = 0.0
        if not self._least or first / self.rate >= self._bucket:
            lost = self._least[-1] if self._least else 0.0
            if lost > _LOSS_SECONDS:
                return lost
            self._adjust()
            self._least.append(late)
            self._bucket = first / self.rate + _BUCKET_SECONDS
        else:
            self._least[-1] = min(self._least[-1], late)
        return 0.0

    def _adjust(self) -> None:
        if len(self._least) == _DRIFT_BUCKETS and (least := min(self._least)) > 0:
            self.zero += least
            self._least = deque((other - least for other in self._least), maxlen=_DRIFT_BUCKETS)


@dataclass
class _Stretch:
    """Sound without a hole. first: the number of its first sample among all that ever came. zero: when that was."""

    first: int
    zero: float


class SoundRing:
    """Mono sound at sample_rate Hz; the oldest gives way to the newest. Not guarded against several threads."""

    def __init__(self, sample_rate: int, seconds: float) -> None:
        self.sample_rate = sample_rate
        self._data = np.zeros(max(1, round(seconds * sample_rate)), np.float32)
        self._count = 0  # of all samples that ever came
        self._stretches: deque[_Stretch] = deque()

    def begin(self, zero: float) -> None:
        """A new stretch, whose first sample is captured then; what came before stays."""
        if self._stretches and self._stretches[-1].first == self._count:
            self._stretches.pop()  # nothing came of it
        self._stretches.append(_Stretch(self._count, zero))

    def move(self, zero: float) -> None:
        """The newest stretch began then, as is now known better."""
        self._stretches[-1].zero = zero

    def add(self, data: Float32) -> None:
        """float32 (n,), right after what came before."""
        size = len(self._data)
        kept = data[-size:]
        places = (self._count + len(data) - len(kept) + np.arange(len(kept))) % size
        self._data[places] = kept
        self._count += len(data)
        while len(self._stretches) > 1 and self._stretches[1].first <= self._count - size:
            self._stretches.popleft()

    def heard(self) -> tuple[float, float] | None:
        """From when to when the newest stretch is kept; None: there is none."""
        if not self._stretches or self._stretches[-1].first == self._count:
            return None
        return self._time(self._kept(self._stretches[-1])), self._time(self._count)

    def clip(self, start: float, count: int) -> tuple[float, Float32] | float | None:
        """So many samples from a time on, and when the first of them was captured.

        Returns:
            (seconds, float32 (count,)); the seconds of sound that are still to come for it; or None: it was not heard,
            or not in one stretch, or it is no longer kept.
        """
        number = len(self._stretches) - 1
        while number >= 0 and start < self._stretches[number].zero - _TOLERANCE:
            number -= 1
        if number < 0:
            return None if self._stretches else count / self.sample_rate
        stretch, newest = self._stretches[number], number == len(self._stretches) - 1
        first = stretch.first + max(0, round((start - stretch.zero) * self.sample_rate))
        end = self._count if newest else self._stretches[number + 1].first
        if first < self._kept(stretch) or count > len(self._data) or (first + count > end and not newest):
            return None
        if first + count > end:
            return (first + count - end) / self.sample_rate
        data = self._data[np.arange(first, first + count) % len(self._data)]
        return stretch.zero + (first - stretch.first) / self.sample_rate, data

    def _kept(self, stretch: _Stretch) -> int:
        return max(stretch.first, self._count - len(self._data))

    def _time(self, number: int) -> float:
        newest = self._stretches[-1]
        return newest.zero + (number - newest.first) / self.sample_rate
