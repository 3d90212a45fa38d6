"""A live camera: its newest picture, and when that was captured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError
from ..scaling import Stretcher
from ..types import Frame
from .cameras import find_video
from .clock import Clock
from .source import Source
from .video_source import Film, await_permission, open_video

_FRESH = 2.0  # seconds after which a picture is not what is seen now
_WAITED = 0.005  # seconds without work; a picture that had to be waited for so long did not lie in a buffer
_IN_A_ROW = 2
_JUMP, _JUMP_SECONDS = 3.0, 0.1  # after so many usual intervals, and so long, there may be a backlog
_RUN = 10  # pictures in a row that nobody waited for are one, too
_PATIENCE = 5.0  # seconds in which a backlog must be gone
_LATE = 2.0  # seconds; a film that is later than that goes on from where it is
_SELDOM = 0.5  # seconds after which a late picture is better than none

_Picture = tuple[int, float, NDArray[np.uint8]]  # index, time, BGR


class Camera(Source):
    """Captures on its own thread from construction to `close`; only the newest picture is kept.

    Args:
        source: an index, a name, /dev/videoN, a URL or a file (`cameras.find_video`).
        image_size: side of the pictures that `newest` gives.
        note: told in one line when the camera is lost, and when it is back; on the camera's thread. On macOS also, from
            here, that a person has to allow it.

    Raises:
        DeviceError: it cannot be opened, or sends nothing.
    """

    def __init__(self, source: str, image_size: int, clock: Clock, note: Callable[[str], None]) -> None:
        self._source = find_video(source)
        await_permission(self._source, note)
        super().__init__(self._source.name, clock, note)
        self._stretch, self._stretching = Stretcher(image_size), threading.Lock()
        self._shown: _Picture | None = None
        self._taken, self._played = -1, 0.0
        self._begin()

    def newest(self, after: int, timeout: float) -> Frame | None:
        """The newest picture whose index is above `after`, stretched as those of a file; None: none within timeout."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._fresh(after) is not None, timeout)
            shown = self._fresh(after)
            self._taken = shown[0] if shown else self._taken
        if shown is None:
            return None
        with self._stretching:
            return Frame(shown[0], shown[1], self._stretch(shown[2]))

    def picture(self) -> tuple[float, NDArray[np.uint8]] | None:
        """The newest picture, uint8 (height, width, 3), RGB, and its time; None: there is none of now."""
        with self._news:
            shown = self._fresh(-1)
        return (shown[1], np.ascontiguousarray(shown[2][..., ::-1])) if shown else None

    def _fresh(self, after: int) -> _Picture | None:
        shown = self._shown
        if shown is None or self._state != "on" or shown[0] <= after or self._clock.now() - shown[1] > _FRESH:
            return None
        return shown

    def _follow(self) -> None:
        try:
            with open_video(self._source, self._wanted) as film:
                (self._play if film.paced else self._watch)(film)
        finally:
            with self._news:
                self._shown = None

    def _watch(self, film: Film) -> None:
        """Show what is captured as it comes; what had lain in a buffer is passed over."""
        backlog = _Backlog()
        while self._wanted():
            asked, worked = self._clock.now(), time.thread_time()
            film.grab()
            came = self._clock.now()
            self._arrived()
            if backlog.fresh(came, came - asked - (time.thread_time() - worked)):
                self._show(came, film.picture())
            elif backlog.lasts(came) > _PATIENCE:
                raise DeviceError(f"{self.name}: sends more than this machine can decode; let it send smaller pictures")
            else:
                self._drop()

    def _play(self, film: Film) -> None:
        """Show a file's pictures when they are due; those that are late are passed over."""
        if self._played:  # before it was paused or lost
            film.seek(self._played)
        begun: float | None = None  # the clock at position 0
        while self._wanted():
            film.grab()
            now, position = self._clock.now(), film.position
            if begun is None or now - begun - position > _LATE:
                begun = now - position
            self._arrived()
            if not self._rest(begun + position - now):
                return
            self._played = position
            due, last = begun + position, self._shown[1] if self._shown else -_SELDOM
            if now - due > 1.0 / film.rate and due - last < _SELDOM:
                self._drop()
            else:
                self._show(due, film.picture())

    def _show(self, captured: float, pixels: NDArray[np.uint8] | None) -> None:
        if pixels is None:
            self._drop()
            return
        with self._news:
            unseen = self._shown is not None and self._shown[0] > self._taken
            self._dropped += unseen
            self._shown = (self._seen - 1, captured, pixels)
            self._news.notify_all()

    def _drop(self) -> None:
        with self._news:
            self._dropped += 1


class _Backlog:
    """Tells pictures that come as they are captured from those that lay in a buffer: nobody waits for the latter.

    There may be some when a source was just opened, and after it or this program had stopped for a while: then all are
    old until some in a row had to be waited for.
    """

    def __init__(self) -> None:
        self._waits = 0  # in a row, up to _IN_A_ROW: no backlog
        self._runs = 0  # pictures in a row that nobody waited for
        self._usual = 0.0  # seconds between pictures
        self._came: float | None = None
        self._free_at: float | None = None  # when a picture was last waited for

    def fresh(self, came: float, waited: float) -> bool:
        """Whether the picture that came then, after so much waiting, was captured just now."""
        gap = came - self._came if self._came is not None else 0.0
        self._came = came
        idle = waited > _WAITED
        self._runs = 0 if idle else self._runs + 1
        self._free_at = came if idle or self._free_at is None else self._free_at
        if self._waits == _IN_A_ROW:
            if gap <= max(_JUMP * self._usual, _JUMP_SECONDS) and self._runs < _RUN:
                self._usual += 0.1 * (gap - self._usual)
                return True
            self._waits = 0
            return False
        if idle:
            self._waits, self._usual = self._waits + 1, gap
        else:
            self._waits = 0
        return self._waits == _IN_A_ROW

    def lasts(self, came: float) -> float:
        """Seconds in which no picture had to be waited for."""
        return came - (self._free_at if self._free_at is not None else came)
