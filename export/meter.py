"""What making one part took: time, processor time, and the most memory it had at once."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vllama.runtime.machine import peak_bytes

T = TypeVar("T")
_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class PartCost:
    """seconds of wall time, and of processor time in all threads; peak_bytes: most memory at once, mapped files
    included, None where the system does not tell it part by part."""

    part: str
    bytes: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int | None


Report = Callable[[PartCost], None]


class Meter:
    """A stopwatch, started when it is made."""

    def __init__(self) -> None:
        self._is_peak_its_own = _forget_peak()
        self._started = time.perf_counter(), time.process_time()

    def read(self, part: str, size: int) -> PartCost:
        """What it took until now to make so many bytes."""
        seconds, cpu_seconds = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        return PartCost(part, size, seconds, cpu_seconds, peak_bytes() if self._is_peak_its_own else None)


def metered(name: str, report: Report, make: Callable[[], T], size: Callable[[T], int]) -> T:
    """What `make` makes; what that took is reported, and memory that it no longer uses given back."""
    meter = Meter()
    made = make()
    report(meter.read(name, size(made)))
    give_back()
    return made


def give_back() -> None:
    """Return memory that nothing uses to the system: graphs refer to themselves, and glibc keeps what was freed."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other systems have no such call
        ctypes.CDLL(None).malloc_trim(0)


def _forget_peak() -> bool:
    """Let the peak of this process begin anew; only Linux can."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True
