"""One clock for picture and sound: seconds that only grow, and the time of day they stand for."""

from __future__ import annotations

import time
from datetime import datetime, timedelta


class Clock:
    """Seconds since it was made.

    It counts `time.perf_counter`, so that a changed system clock or summer time moves nothing (`time.monotonic` does so
    too, on Windows in steps of 16 ms); the time of day is that of its zero, plus the seconds. started: the wall time of
    second 0, aware, local.
    """

    def __init__(self) -> None:
        self._zero = time.perf_counter()
        self.started = datetime.now().astimezone()

    def now(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._zero

    def wall(self, seconds: float) -> datetime:
        """The time of day of that second, local and aware."""
        return (self.started + timedelta(seconds=seconds)).astimezone()

    def seconds(self, wall: datetime) -> float:
        """The second of that time of day; a naive one is taken as local."""
        return (wall.astimezone() - self.started).total_seconds()
