"""A camera and a microphone that are seen and heard into a timeline, in the background, for as long as it is open."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..capture.clock import Clock
from ..capture.source import SourceStatus
from ..encoders import Encoders
from ..errors import VllamaError
from ..spec import ModelSpec
from ..timeline import ClipFeature, FrameFeature, Timeline
from ..types import Span
from .senses import Hearing, LiveSource, PictureSource, Seeing, SoundSource

Sense = Literal["camera", "microphone"]
_NICE = 10  # of the encoders' threads
_ON_THE_WAY = 60.0  # seconds: nothing that was seen or heard takes longer from the device to the timeline


@dataclass(frozen=True)
class LiveStatus:
    """How it goes right now.

    camera, microphone: None where there is none. seen_rate: pictures looked at per second, over the last seconds; most
    that a camera gives are replaced before. encoded, still: of the pictures, those that were encoded, and that showed
    nothing new. clips, clips_left_out: stretches of sound that were encoded, and that were not because it would have
    taken too long. held: seconds from the oldest to the newest that is kept. bytes: of the features kept.
    """

    camera: SourceStatus | None
    microphone: SourceStatus | None
    seen_rate: float
    encoded: int
    still: int
    clips: int
    clips_left_out: int
    held: float
    bytes: int


class Live:
    """What `Engine.watch` gives: sources, the timeline they fill, and the threads between. Use it in a `with` block.

    One thread sees and one hears. They share the cores with the language model by rule: the encoders have half of the
    threads; at most half of the time goes into each of the two, a fifth while an answer is made; pictures are taken
    less often where that is not enough, but one in five seconds is always tried. Where a thread can be nicer than
    others (Linux), the encoders' are: of a core that both want, the language model has nine tenths. An answer is not
    starved, and does not stop the seeing.

    Args:
        timeline: a live one.
        encoders: of its own; it is closed with this.
        camera, microphone: open; they are closed with this.
        fps: pictures per second, where the machine can hold it.
        answers: whether the language model is at work.
        note: told once, in one line, what a person should know.

    Attributes:
        microphone: as given, for those who listen as well.
    """

    def __init__(
        self,
        timeline: Timeline,
        encoders: Encoders,
        spec: ModelSpec,
        clock: Clock,
        *,
        camera: PictureSource | None,
        microphone: SoundSource | None,
        fps: float,
        dtype: DTypeLike,
        answers: Callable[[], bool] = lambda: False,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.timeline = timeline
        self.clock = clock
        self.microphone = microphone
        self._encoders = encoders
        self._note = note
        self._sources: dict[Sense, LiveSource] = {}
        self._see: Seeing | None = None
        self._hear: Hearing | None = None
        self._failed: dict[Sense, str] = {}
        self._forgotten: list[Span] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._camera = camera
        if camera is not None:
            self._sources["camera"] = camera
            self._see = Seeing(camera, encoders, clock, self._keep, fps=fps, answers=answers, dtype=dtype)
        if microphone is not None:
            assert spec.audio is not None
            self._sources["microphone"] = microphone
            self._hear = Hearing(microphone, encoders, spec.audio, self._keep, answers=answers, dtype=dtype)
        working: list[tuple[Sense, Seeing | Hearing | None]] = [("camera", self._see), ("microphone", self._hear)]
        self._threads = [
            threading.Thread(target=self._run, args=(sense, at_work), name=sense, daemon=True)
            for sense, at_work in working
            if at_work is not None
        ]
        for thread in self._threads:
            thread.start()

    @property
    def status(self) -> LiveStatus:
        """How it goes right now."""
        see, hear = self._see, self._hear
        return LiveStatus(
            camera=self._status_of("camera"),
            microphone=self._status_of("microphone"),
            seen_rate=see.rate if see else 0.0,
            encoded=see.encoded if see else 0,
            still=see.still if see else 0,
            clips=hear.encoded if hear else 0,
            clips_left_out=hear.left_out if hear else 0,
            held=self.timeline.held,
            bytes=self.timeline.bytes,
        )

    def pause(self, sense: Sense | None = None) -> None:
        """Close the device, or both, until `resume`; the timeline stays, and its clock goes on."""
        for source in self._named(sense):
            source.pause()

    def resume(self, sense: Sense | None = None) -> None:
        """See and hear again."""
        for source in self._named(sense):
            source.resume()

    def forget(self, span: Span | None = None) -> None:
        """Give up what was seen and heard in a span, or until now; also what is only just being encoded.

        No later question is about it, prepared or not. A conversation still knows the words that were said about it:
        `Engine.chat` begins one that does not. What the language model read last stays in memory until its next prompt.
        """
        now = self.clock.now()
        span = Span(0.0, now) if span is None else span.within(now)
        if span.start > now:
            return  # nothing of it was seen or heard yet
        with self._lock:
            self._forgotten = [old for old in self._forgotten if old.end > now - _ON_THE_WAY] + [span]
            self.timeline.forget(span)
        if self._see is not None:
            self._see.forget()

    def picture(self) -> tuple[float, NDArray[np.uint8]] | None:
        """What the camera sees now, uint8 (h, w, 3), RGB, in full size, and its time; None: nothing yet, or paused."""
        return None if self._camera is None else self._camera.picture()

    def close(self) -> None:
        """End the threads and close the devices; a second call does nothing."""
        self._stop.set()
        with ExitStack() as stack:  # all of it, also where Ctrl-C comes meanwhile
            stack.callback(self._encoders.close)
            for thread in self._threads:
                stack.callback(thread.join)
            for source in self._sources.values():
                stack.callback(source.close)

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, sense: Sense, at_work: Seeing | Hearing) -> None:
        """The thread of one sense."""
        _give_way()
        try:
            while not self._stop.wait(max(at_work.wait, 0.0)):
                at_work.step()
                self.timeline.reach(self.clock.now())
        except BaseException as error:
            ours = isinstance(error, VllamaError)
            said = self._failed[sense] = " ".join((str(error) if ours else f"{type(error).__name__}: {error}").split())
            if not self._stop.is_set():
                self._note(f"the {sense} is no longer followed: {said}")
            if not ours:
                raise

    def _keep(self, feature: FrameFeature | ClipFeature) -> None:
        start, end = feature.start, feature.end if isinstance(feature, ClipFeature) else feature.start
        with self._lock:
            if any(span.start <= end and start <= span.end for span in self._forgotten):
                return
            if isinstance(feature, ClipFeature):
                self.timeline.add_clip(feature)
            else:
                self.timeline.add_frame(feature)

    def _status_of(self, sense: Sense) -> SourceStatus | None:
        if sense not in self._sources:
            return None
        status = self._sources[sense].status
        failed = self._failed.get(sense)
        return status if failed is None else replace(status, state="lost", detail=failed)

    def _named(self, sense: Sense | None) -> list[LiveSource]:
        return [source for name, source in self._sources.items() if sense in (None, name)]


def _give_way() -> None:
    """Be nicer than the language model's threads; those that this thread starts, when it opens a graph, are so too."""
    if sys.platform == "linux" and os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < _NICE:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
