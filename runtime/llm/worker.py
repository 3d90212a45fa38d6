"""The thread that llama.cpp runs on, so that Ctrl-C and `cancel` take effect while it computes."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from ..errors import BackendError

_T = TypeVar("_T")
_WAKE_SECONDS = 0.2  # waiting without a limit would keep Ctrl-C out on Windows
_BETWEEN_SECONDS = 0.25  # from one token of an answer to the next, while that one is drawn and shown


class Call(Generic[_T]):
    """A call on its way.

    Not a `concurrent.futures.Future`: Ctrl-C may end who waits at any point, also inside the locks of Python's own
    classes. This one has a bare lock, which the worker alone opens.
    """

    def __init__(self, call: Callable[[], _T]) -> None:
        self._call: Callable[[], _T] | None = call
        self._error: BaseException | None = None
        self._is_over = False
        self._over = threading.Lock()
        self._over.acquire()

    def done(self) -> bool:
        """Whether it has returned or raised."""
        return self._is_over

    def wait(self) -> None:
        """Return when it has, or a moment later."""
        if self._over.acquire(timeout=_WAKE_SECONDS):
            self._over.release()

    def result(self) -> _T:
        """What it returned or raises; it is done."""
        if self._error is not None:
            raise self._error
        return self._value

    def run(self) -> None:
        """Make it, in the worker's thread."""
        assert self._call is not None
        try:
            self._value = self._call()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
        self._call = None
        self._is_over = True
        self._over.release()


class Worker:
    """Calls one after the other, on a thread of its own, which ends with this.

    Args:
        cancel: set when Ctrl-C breaks off the wait for a call, and at the end; the call ends soon after.
    """

    def __init__(self, cancel: threading.Event) -> None:
        self._cancel = cancel
        self._calls: SimpleQueue[Call[object] | None] = SimpleQueue()
        thread = threading.Thread(target=_work, args=(self._calls,), name="backbone", daemon=True)
        self._end = weakref.finalize(self, _end, self._calls, cancel, thread)
        self._awaited, self._last_awaited = False, -_BETWEEN_SECONDS  # whether a call is waited for; when one last was
        thread.start()

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for a call, or did a moment ago; may be asked from any thread."""
        return self._awaited or time.monotonic() - self._last_awaited < _BETWEEN_SECONDS

    def begin(self, call: Callable[[], _T]) -> Call[_T]:
        """Return at once; the call comes after those that were begun before it.

        Raises:
            BackendError: it was closed.
        """
        if not self._end.alive:
            raise BackendError("the language model was closed; open it again")
        begun = Call(call)
        self._calls.put(begun)  # type: ignore[arg-type]  # nobody asks the queue for what it returns
        return begun

    def run(self, call: Callable[[], _T]) -> _T:
        """What a call returns or raises."""
        self._awaited = True
        try:
            return self.result(self.begin(call))
        finally:
            self._awaited, self._last_awaited = False, time.monotonic()

    def result(self, begun: Call[_T]) -> _T:
        """What a call that was begun returns or raises."""
        try:
            while not begun.done():
                begun.wait()
        except BaseException:
            self._cancel.set()
            while not begun.done():
                begun.wait()
            raise
        return begun.result()

    def close(self) -> None:
        """End the thread."""
        self._end()


def _work(calls: SimpleQueue[Call[object] | None]) -> None:
    while (call := calls.get()) is not None:
        call.run()
        del call  # else it would be held until the next one comes


def _end(calls: SimpleQueue[Call[object] | None], cancel: threading.Event, thread: threading.Thread) -> None:
    cancel.set()
    calls.put(None)
    if thread.is_alive() and thread is not threading.current_thread():  # whose last call may have been all that held it
        thread.join()
