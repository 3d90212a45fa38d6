"""Files in place of a camera and a microphone, on any clock, also one that is faster than time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vllama.runtime.capture.clock import Clock
from vllama.runtime.capture.source import SourceStatus
from vllama.runtime.media import probe, read_frames
from vllama.runtime.sound import count_samples, read_samples
from vllama.runtime.types import Frame, Samples


class FastClock(Clock):
    """Goes `speed` times as fast as time, or only by `advance` where speed is 0."""

    def __init__(self, speed: float = 0.0) -> None:
        super().__init__()
        self._speed = speed
        self._set = 0.0

    def now(self) -> float:
        return self._set + self._speed * super().now()

    def advance(self, seconds: float) -> None:
        self._set += seconds


class _Played:
    name = ""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.state = "on"
        self.seen = 0
        self.closed = False

    @property
    def status(self) -> SourceStatus:
        return SourceStatus(self.name, self.state, "", self.seen, 0, 0.0)  # type: ignore[arg-type]

    def pause(self) -> None:
        self.state = "paused"

    def resume(self) -> None:
        self.state = "on"

    def close(self) -> None:
        self.closed = True


class PlayedCamera(_Played):
    """The pictures of a file, again and again."""

    name = "film"

    def __init__(self, path: Path, size: int, clock: Clock) -> None:
        super().__init__(clock)
        info = probe(path)
        self._frames = list(read_frames(info, list(range(len(info.frame_times))), size))
        self._rate = info.frame_rate

    def newest(self, after: int, timeout: float) -> Frame | None:
        end = time.monotonic() + timeout
        while self.state == "on" and not self.closed:
            now = self.clock.now()
            index = int(now * self._rate)
            if index > after:
                self.seen += 1
                return Frame(index, index / self._rate, self._frames[index % len(self._frames)].pixels)
            if time.monotonic() > end:
                return None
            time.sleep(0.002)
        return None

    def picture(self) -> tuple[float, NDArray[np.uint8]] | None:
        now = self.clock.now()
        return None if self.state != "on" else (now, self._frames[int(now * self._rate) % len(self._frames)].pixels)


class PlayedMicrophone(_Played):
    """The sound of a file, again and again; it keeps half a minute."""

    name = "record"

    def __init__(self, path: Path, sample_rate: int, clock: Clock) -> None:
        super().__init__(clock)
        info = probe(path)
        count = count_samples(info, sample_rate)
        (whole,) = read_samples(info, [(0, count)], sample_rate)
        self._data, self._rate = whole.data[:1], sample_rate
        self._since = 0.0
        self._lock = threading.Lock()

    def resume(self) -> None:
        if self.state != "on":
            self._since = self.clock.now()
        super().resume()

    def heard(self) -> tuple[float, float] | None:
        now = self.clock.now()
        return None if self.state != "on" else (max(self._since, now - 30.0), now)

    def clip(self, start: float, seconds: float, timeout: float) -> Samples | None:
        heard = self.heard()
        if heard is None or not heard[0] <= start <= heard[1] - seconds:
            return None
        first = round(start * self._rate)
        places = (first + np.arange(round(seconds * self._rate))) % self._data.shape[1]
        return Samples(first / self._rate, np.ascontiguousarray(self._data[:, places]), self._rate)
