"""Seeing and hearing: what comes from a camera and a microphone, encoded one piece at a time, the newest first."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..capture.clock import Clock
from ..capture.source import SourceStatus
from ..change import Repeats
from ..encoders import Encoders
from ..spec import AudioSpec
from ..timeline import ClipFeature, FrameFeature
from ..types import Frame, Samples
from .pace import Pace

FRAME_RATE = 1000.0  # of a live timeline: the number of a picture is its time in milliseconds
_WAIT_SECONDS = 0.25  # for a picture, before looking whether to go on
_POLL_SECONDS = 0.1  # for sound
_PAUSED_SECONDS = 0.05  # a source that is paused may answer at once
_RATE_SECONDS = 5.0
_A_LENGTH = 4  # stretches of sound begin in the length of one
_TICK = 1e-3  # seconds by which a stretch of sound may seem to begin too early through rounding


class LiveSource(Protocol):
    """A camera or a microphone, with a thread of its own.

    Whatever it raises is told to `note` in one line, and it is no longer followed.
    """

    @property
    def status(self) -> SourceStatus:
        """How it does right now."""

    def pause(self) -> None:
        """Close the device until `resume`."""

    def resume(self) -> None:
        """Open it again."""

    def close(self) -> None:
        """End its thread."""


class PictureSource(LiveSource, Protocol):
    """`runtime.capture.camera.Camera`, or whatever gives pictures as it does.

    Times are seconds of the clock that `Engine.follow` is given.
    """

    def newest(self, after: int, timeout: float) -> Frame | None:
        """The newest picture, if its number is greater than `after`; waits for it at most `timeout` seconds.

        Returns:
            Its pixels stretched to the model's size: uint8 (image_size, image_size, 3), RGB, where image_size is
            `Engine.spec.video.image_size`. None: there is no newer one.
        """

    def picture(self) -> tuple[float, NDArray[np.uint8]] | None:
        """The newest picture in full size, uint8 (h, w, 3), RGB, and its time; None: there is none."""


class SoundSource(LiveSource, Protocol):
    """`runtime.capture.microphone.Microphone`, or whatever gives sound as it does.

    Times are seconds of the clock that `Engine.follow` is given.
    """

    def clip(self, start: float, seconds: float, timeout: float) -> Samples | None:
        """A stretch of sound; waits for it at most `timeout` seconds.

        Returns:
            float32 (channels, n), [-1, 1], finite, at the model's rate, `Engine.spec.audio.sample_rate` Hz; only the
            first channel is listened to. None: it was not heard.
        """

    def heard(self) -> tuple[float, float] | None:
        """From and to of the newest unbroken stretch; None: nothing was heard yet."""


class Seeing:
    """Takes the newest picture at a steady rate; `step` does it once, from one thread.

    A picture that shows nothing new is not encoded: its time is kept with the features of the one it looks like. What
    comes while another one is encoded is never seen, and nothing waits in a line.

    Args:
        keep: takes what was seen.
        pace: how often to encode; pictures without anything new are looked at as often as wanted.
        dtype: how features are kept.

    Attributes:
        encoded, still: pictures that were encoded, and that showed nothing new.
    """

    def __init__(
        self,
        camera: PictureSource,
        encoders: Encoders,
        clock: Clock,
        keep: Callable[[FrameFeature], None],
        *,
        fps: float,
        answers: Callable[[], bool],
        dtype: DTypeLike,
    ) -> None:
        self._camera = camera
        self._encoders = encoders
        self._clock = clock
        self._keep = keep
        self._wanted = 1.0 / fps
        self._pace = Pace(self._wanted, answers)
        self._dtype = dtype
        self._newest = -1
        self._due = 0.0
        self._repeats = Repeats()
        self._forgotten = 0
        self._referring = threading.Lock()  # held while the reference, or the count of what was forgotten, changes
        self._times: deque[float] = deque(maxlen=max(2, math.ceil(fps * _RATE_SECONDS)))
        self.encoded = self.still = 0

    @property
    def wait(self) -> float:
        """Seconds until the next picture is due."""
        return self._due - self._clock.now()

    @property
    def rate(self) -> float:
        """Pictures seen per second, over the last seconds."""
        since = self._clock.now() - _RATE_SECONDS
        times = [moment for moment in list(self._times) if moment >= since]
        return len(times) / min(_RATE_SECONDS, max(self._clock.now(), 1.0))

    def step(self) -> None:
        """Wait for the newest picture, a moment at most, and keep it.

        Raises:
            BackendError: it cannot be encoded.
        """
        frame, begun = self._camera.newest(self._newest, _WAIT_SECONDS), self._clock.now()
        if frame is None:
            self._due = begun + _PAUSED_SECONDS
            return
        self._newest = frame.index
        interval = self._see(frame)
        self._times.append(begun)
        self._due = max(self._due + interval, begun + interval / 2)

    def forget(self) -> None:
        """The next picture is encoded whatever it looks like."""
        with self._referring:
            self._forgotten += 1
            self._repeats.forget()

    def _see(self, frame: Frame) -> float:
        """Returns: seconds until the next."""
        number, forgotten = round(frame.time * FRAME_RATE), self._forgotten
        repeat = self._repeats.find(number, frame.time, frame.pixels)
        if repeat is not None:
            self.still += 1
            self._keep(repeat)
            return self._wanted
        started = time.perf_counter()
        features = self._encoders.frame_features([frame])[0].astype(self._dtype)
        self._pace.took(time.perf_counter() - started)
        self.encoded += 1
        feature = FrameFeature(number, frame.time, features)
        with self._referring:
            if forgotten == self._forgotten:
                self._repeats.encoded(frame.pixels, feature)
        self._keep(feature)
        return self._pace.interval


class Hearing:
    """Takes overlapping stretches of sound, one each quarter of their length; `step` does it once, from one thread.

    So whatever happens is whole in several, and near to where a question's rule wants one begins one: with one each
    half, 93 % of the miniature's answers about sound were right, with one each quarter 96 %, as many as from the file
    (88 questions, four phases). Where encoding does not keep up, stretches are left out and the newest are taken.

    Args: as `Seeing`.

    Attributes:
        encoded, left_out: stretches.
    """

    def __init__(
        self,
        microphone: SoundSource,
        encoders: Encoders,
        spec: AudioSpec,
        keep: Callable[[ClipFeature], None],
        *,
        answers: Callable[[], bool],
        dtype: DTypeLike,
    ) -> None:
        self._microphone = microphone
        self._encoders = encoders
        self._seconds = spec.clip_seconds
        self._hop = spec.clip_seconds / _A_LENGTH
        self._keep = keep
        self._pace = Pace(self._hop, answers)
        self._dtype = dtype
        self._next = -math.inf
        self.encoded = self.left_out = 0

    @property
    def wait(self) -> float:
        """Seconds until it is worth looking again."""
        heard = self._microphone.heard()
        return 0.0 if heard is not None and self._start(*heard)[0] is not None else _POLL_SECONDS

    def step(self) -> None:
        """Encode the next stretch, if it was heard.

        Raises:
            BackendError: it cannot be encoded.
        """
        heard = self._microphone.heard()
        if heard is None:
            return
        start, late = self._start(*heard)
        clip = None if start is None else self._microphone.clip(start, self._seconds, _WAIT_SECONDS)
        if start is None or clip is None:
            return
        started = time.perf_counter()
        features = self._encoders.clip_features([clip])[0].astype(self._dtype)
        self._pace.took(time.perf_counter() - started)
        self._keep(ClipFeature(clip.start, clip.end, features))
        self.encoded += 1
        hops = math.ceil(round(self._pace.interval / self._hop, 6))
        self.left_out += late + hops - 1
        self._next = start + hops * self._hop

    def _start(self, first: float, last: float) -> tuple[float | None, int]:
        """Where the next stretch begins, given what was heard without a gap; None: it is not over yet.

        And how many are left out before it, because they came while another one was encoded.
        """
        start = first if self._next < first - _TICK else self._next  # the former after a gap
        late = max(0, int((last - self._seconds - start) / self._hop) - 1)
        start += late * self._hop
        return (start if start + self._seconds <= last + _TICK else None), late
