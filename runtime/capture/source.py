"""What camera and microphone share: a source on its own thread, followed until it is lost, then tried again."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ..errors import DeviceError
from .clock import Clock

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 10.0  # seconds until a lost source is tried again, doubling
_HELD = 10.0  # seconds after which a source that is lost again is a new loss
_RATE_WINDOW = 5.0  # seconds
_CLOSE_SECONDS = 15.0  # more than any stream is waited for
_LOOK_SECONDS = 0.5  # with a limit to each wait Ctrl-C is seen on Windows, too


State = Literal["on", "paused", "lost", "ended"]


@dataclass(frozen=True)
class SourceStatus:
    """How a camera or a microphone does right now.

    name: what a person calls it: "camera 0", "http://...", "pulse". detail: "", or the one line why it is lost.
    state: "lost" is tried again, "ended", of a file, is not.
    seen: frames or samples that came. dropped: frames that were replaced unseen, or samples that were lost.
    rate: frames (or samples) per second, over the last seconds.
    """

    name: str
    state: State
    detail: str
    seen: int
    dropped: int
    rate: float


class EndedError(DeviceError):
    """A source that had an end has reached it: it is not tried again."""


class Source(ABC):
    """A source on its own thread. Nothing is raised from the thread; what is lost is noted, once, and tried again.

    `_news` guards everything that both sides touch, and tells the other side of every change.
    """

    def __init__(self, name: str, clock: Clock, note: Callable[[str], None]) -> None:
        self.name, self._clock, self._note = name, clock, note
        self._news = threading.Condition()
        self._state: State = "lost"
        self._detail = "being opened"
        self._failed: DeviceError | None = None
        self._paused = self._closed = self._idle = self._begun = False
        self._since = clock.now()  # of the state
        self._wait = _FIRST_WAIT
        self._seen = self._dropped = 0
        self._lately: deque[tuple[float, int]] = deque()  # (when, how many) of the last seconds
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @abstractmethod
    def _follow(self) -> None:
        """Open the source, take what comes while `_wanted`, close it.

        Raises:
            DeviceError: it cannot be opened, or was lost.
        """

    @property
    def status(self) -> SourceStatus:
        """How it does right now."""
        with self._news:
            return SourceStatus(self.name, self._state, self._detail, self._seen, self._dropped, self._rate())

    def pause(self) -> None:
        """Close the device until `resume`; it is closed when this returns, unless it hangs for 15 s."""
        with self._news:
            self._paused, self._failed = True, None
            self._set("paused", "")
            self._news.wait_for(lambda: self._idle or self._closed, _CLOSE_SECONDS)

    def resume(self) -> None:
        """Open it again."""
        with self._news:
            if self._paused:
                self._paused = False
                self._set("lost", "being opened")

    def close(self) -> None:
        """Close it for good; its thread has ended when this returns, after seconds if a stream hangs.

        Only a sound server that hangs itself can hold it for longer: then the thread is left to end with the program.
        """
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _begin(self) -> None:
        """Start the thread; return when something has come.

        Raises:
            DeviceError: it cannot be opened; the thread has ended.
        """
        self._thread.start()
        try:
            with self._news:
                while not self._news.wait_for(lambda: self._begun or self._failed is not None, _LOOK_SECONDS):
                    pass
                failed = None if self._begun else self._failed  # it may be lost again by now
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if failed is not None:
            self.close()
            raise failed

    def _wanted(self) -> bool:
        return not (self._paused or self._closed)

    def _rest(self, seconds: float) -> bool:
        """Wait so long, less if it is paused or closed; whether it is still wanted."""
        with self._news:
            self._news.wait_for(lambda: not self._wanted(), max(0.0, seconds))
            return self._wanted()

    def _arrived(self, count: int = 1) -> None:
        """So many frames or samples came."""
        now = self._clock.now()
        said = ""
        with self._news:
            self._seen += count
            self._lately.append((now, count))
            while now - self._lately[0][0] > _RATE_WINDOW:
                self._lately.popleft()
            if self._state == "lost":
                said = f"{self.name}: back after {now - self._since:.0f} s" if self._begun and self._failed else ""
                self._failed, self._begun = None, True
                self._set("on", "")
        if said:
            self._note(said)

    def _run(self) -> None:
        try:
            self._work()
        finally:
            with self._news:
                self._idle = True
                if not self._closed and (self._begun or self._failed is None):  # nobody is to wait for it
                    self._failed = DeviceError(f"{self.name}: given up by an error in vllama itself; report it")
                    self._set("lost", str(self._failed).removeprefix(f"{self.name}: "))
                elif self._closed:
                    self._set("lost", "closed")

    def _work(self) -> None:
        while self._next():
            try:
                self._follow()
            except DeviceError as error:
                self._lose(error)
                if not self._begun:
                    return
                if isinstance(error, EndedError):
                    self._rest(threading.TIMEOUT_MAX)
                else:
                    self._rest(self._wait)
                    self._wait = min(_LONGEST_WAIT, 2 * self._wait)

    def _next(self) -> bool:
        """Wait until it is to be followed; False: it was closed."""
        with self._news:
            self._idle = True
            self._news.notify_all()
            self._news.wait_for(lambda: self._closed or not self._paused)
            self._idle = False
            return not self._closed

    def _lose(self, error: DeviceError) -> None:
        """Say why it is lost: as a note, if it was not lost before."""
        said = ""
        with self._news:
            if not self._wanted():
                return
            if self._state == "on":
                if self._clock.now() - self._since > _HELD:
                    self._wait = _FIRST_WAIT
                said = str(error) if isinstance(error, EndedError) else f"{error}; trying again"
            self._failed = error
            if isinstance(error, EndedError):
                self._set("ended", "")
            else:
                self._set("lost", str(error).removeprefix(f"{self.name}: "))
            self._news.notify_all()
        if said:
            self._note(said)

    def _set(self, state: State, detail: str) -> None:
        if state != self._state:
            self._state, self._since = state, self._clock.now()
            self._lately.clear()
        self._detail = detail
        self._news.notify_all()

    def _rate(self) -> float:
        if len(self._lately) < 2:
            return 0.0
        first, uncounted = self._lately[0]
        return (sum(count for _, count in self._lately) - uncounted) / max(1e-9, self._clock.now() - first)
