"""The newest window of a live conversation kept read, so that a question costs its own words."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import VllamaError
from ..types import Long
from .live_chat import LiveChat

_TICK_SECONDS = 0.1
_LEAST_SECONDS = 1.0  # between two readings
_LEAST_TYPING_SECONDS = 0.25
_IDLE_TIMES = 4  # as long as a reading took is waited before the next begins: a quarter of the time goes into it
_TYPING_SECONDS = 2.0  # since the last key
_FRESH_SECONDS = 1.5
_FRESH_TIMES = 2


class ReadAhead:
    """Reads the window again and again while nobody asks, on a thread of its own.

    Idle, a reading begins a second after the last one did, or four times as long after it as it took. While somebody
    types, it begins as soon as the last one is done and a quarter of a second old. A question takes the window that was
    read last while it is no older than 1.5 s, or twice as long as its reading took; else its own is read.

    Attributes:
        chat: whoever uses it does so in `asking`, and may put another one in its place there.
    """

    def __init__(self, chat: LiveChat, long: Long | None = None) -> None:
        self.chat = chat
        self._long = long
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._typed = -_TYPING_SECONDS
        self._begun: float | None = None  # the last reading
        self._reading = False
        self._took = 0.0
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)
        self._thread.start()

    @contextmanager
    def asking(self) -> Iterator[LiveChat]:
        """The chat for oneself: nothing is read ahead meanwhile."""
        with self._lock:
            self._measure()
            self.chat.fresh_seconds = max(_FRESH_SECONDS, _FRESH_TIMES * self._took)
            try:
                yield self.chat
            finally:
                self._begun, self._reading = None, False

    def typing(self) -> None:
        """Somebody types a question; returns at once."""
        self._typed = time.monotonic()

    def close(self) -> None:
        """End the thread; a second call does nothing."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stop.wait(_TICK_SECONDS):
            if self._lock.acquire(blocking=False):
                try:
                    self._measure()
                    if self._is_due():
                        self._begun, self._reading = time.monotonic(), True
                        self.chat.prepare(long=self._long)
                except VllamaError:
                    return  # the question will meet the same and say so
                finally:
                    self._lock.release()

    def _measure(self) -> None:
        if self._reading and self._begun is not None and not self.chat.reads_ahead:
            self._took, self._reading = time.monotonic() - self._begun, False

    def _is_due(self) -> bool:
        window, duration = self.chat.window, self.chat.timeline.duration
        if self._begun is None:
            return duration > 0
        if self._reading or 0 <= window.start < window.end <= duration:  # a window that does not move stays read
            return False
        since = time.monotonic() - self._begun
        if time.monotonic() - self._typed < _TYPING_SECONDS:
            return since >= max(_LEAST_TYPING_SECONDS, self._took)
        return since >= max(_LEAST_SECONDS, _IDLE_TIMES * self._took)
