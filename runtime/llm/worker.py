"""The thread that llama.cpp runs on, so that Ctrl-C and `cancel` take effect while it computes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

_T = TypeVar("_T")
_WAKE_SECONDS = 0.2  # waiting without a limit would keep Ctrl-C out on Windows
_BETWEEN_SECONDS = 0.25  # from one token of an answer to the next, while that one is drawn and shown


class Worker:
    """Calls one after the other, on a thread of its own.

    Args:
        cancel: set when Ctrl-C breaks off the wait for a call; the call ends soon after.
    """

    def __init__(self, cancel: threading.Event) -> None:
        self._cancel = cancel
        self._thread = ThreadPoolExecutor(1, "backbone")
        self._awaited, self._last_awaited = False, -_BETWEEN_SECONDS  # whether a call is waited for; when one last was

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for a call, or did a moment ago; may be asked from any thread."""
        return self._awaited or time.monotonic() - self._last_awaited < _BETWEEN_SECONDS

    def begin(self, call: Callable[[], _T]) -> Future[_T]:
        """Return at once; the call comes after those that were begun before it."""
        return self._thread.submit(call)

    def run(self, call: Callable[[], _T]) -> _T:
        """What a call returns or raises."""
        self._awaited = True
        try:
            return self.result(self.begin(call))
        finally:
            self._awaited, self._last_awaited = False, time.monotonic()

    def result(self, begun: Future[_T]) -> _T:
        """What a call that was begun returns or raises."""
        try:
            while not begun.done():
                wait([begun], _WAKE_SECONDS)
        except BaseException:
            self._cancel.set()
            wait([begun])
            raise
        return begun.result()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()
