"""Features over time: what is kept of a clip, or of a camera, once it was seen and heard."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from .errors import SpecError
from .pixels import frame_indices
from .remembered import Remembered
from .thinning import Kept
from .types import Features, Modality, Span


@dataclass(frozen=True, slots=True, eq=False)  # slots, for there are thousands
class FrameFeature:
    """One encoded picture: its number in display order, its time in seconds, (query_tokens, hidden_size).

    of: the number of the picture that was encoded in its stead, for this one shows nothing new; None: it was itself.
    equal: whether the two are the same to the bit, as they enter the encoder.
    """

    index: int
    time: float
    features: Features
    of: int | None = None
    equal: bool = True

    @property
    def start(self) -> float:
        """Its time, as that of a stretch of no length."""
        return self.time


@dataclass(frozen=True, slots=True, eq=False)
class ClipFeature:
    """One encoded stretch of sound: from and to in seconds, (output_size,)."""

    start: float
    end: float
    features: Features


@dataclass(frozen=True)
class Budget:
    """How much of the past is kept: the newest `seconds`, or what fits `bytes` of features, thinned (`Thinning`)."""

    seconds: float | None = None
    bytes: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("seconds", self.seconds), ("bytes", self.bytes)):
            if value is not None and not value > 0:
                raise SpecError(f"the budget's {name} are {value}; use more than 0, or none for no bound")


_Either = Kept[FrameFeature] | Kept[ClipFeature]


@dataclass(eq=False)
class Timeline:
    """The features of one clip or of one live source, each with its time.

    One thread appends while others choose; both hold the lock for a few dictionary entries or for a copy of pointers,
    never for features. What arrives out of order is sorted when it is read. Arrays may be mapped files: do not write.

    model: the encoders they were made with (`Bundle.encoders_hash`). content: sha256 of the file, "" live.
    length: pictures of the clip, of which some were encoded. duration: seconds. frame_rate: per second.
    sound: whether the clip has an audio track. fps: how densely beside the whole-clip rule it was encoded.
    listened: whether its sound was encoded from end to end. samples: of its sound at the encoder's rate, once counted.
    encoded, encode_ms: how many features the last call of `Engine.index` had to encode (0: all were found), and
    what that cost. shared: how many pictures it found to show nothing new beside those. saved: whether all of it is on
    disk. remembered: all of it as one memory, once it was indexed.
    live: length and duration grow with what is added. budget: how much is kept; for live sources, whose frames come
    in order. forgets: how many calls of `forget` there were; what was made of features before the last one is stale.
    """

    model: str
    content: str
    kind: Modality
    length: int
    duration: float
    frame_rate: float
    sound: bool
    fps: float = 0.0
    encode_ms: float = 0.0
    listened: bool = False
    samples: int | None = None
    encoded: int = 0
    shared: int = 0
    saved: bool = False
    remembered: Remembered | None = None
    live: bool = False
    budget: Budget | None = None
    forgets: int = 0
    _frames: Kept[FrameFeature] = field(default_factory=Kept, repr=False)
    _clips: Kept[ClipFeature] = field(default_factory=Kept, repr=False)
    _whole_clips: tuple[ClipFeature, ...] = field(default=(), repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _sorted: _Sorted | None = field(default=None, repr=False)
    _version: int = field(default=0, repr=False)  # of the frames

    def emptied(self) -> Timeline:
        """One of the same clip, without its features."""
        return Timeline(
            model=self.model, content=self.content, kind=self.kind, length=self.length, duration=self.duration,
            frame_rate=self.frame_rate, sound=self.sound,
        )  # fmt: skip

    def add_frame(self, frame: FrameFeature) -> None:
        """Keep one picture; a second one of the same index replaces it."""
        with self._lock:
            self._frames.put(frame.index, frame, bounded=self.budget is not None)
            self._changed()
            if self.live:
                self.length, self.duration = max(self.length, frame.index + 1), max(self.duration, frame.time)
            self._make_room(self._frames, self._clips)

    def add_clip(self, clip: ClipFeature) -> None:
        """Keep one stretch of sound beside those of the whole-clip rule; a second of the same start replaces it."""
        with self._lock:
            self._clips.put(clip.start, clip, bounded=self.budget is not None)
            if self.live:
                self.duration = max(self.duration, clip.end)
            self._make_room(self._clips, self._frames)

    def replace_whole_clips(self, clips: tuple[ClipFeature, ...]) -> None:
        """The stretches of the whole-clip rule, all of them, in their order."""
        with self._lock:
            self._whole_clips = clips

    def choose_frames(self, count: int, span: Span | None = None) -> list[FrameFeature]:
        """The pictures a question looks at, in order of time.

        Without a span they are the original's: index arange(0, length, length / count) truncated. With one, the
        same rule over its seconds, and for each the nearest picture there is; fewer where the same is nearest twice.
        A live one shows nothing of a span in which nothing was seen: an older picture would pass for a new one.
        """
        there = self._in_order()
        if not there.frames:
            return []
        if span is None:
            wanted, known, first = np.array(frame_indices(count, self.length), np.float64), there.indices, 0
        else:
            wanted = rule_over(span.within(self.duration), count)
            first, last = there.within(span.within(self.duration))
            if first >= last and self.live:
                return []
            first, last = (first, last) if first < last else (0, len(there.frames))
            known = there.times[first:last]
        return [there.frames[first + i] for i in sorted(set(nearest(known, wanted)))]

    def choose_clips(self, count: int, clip_seconds: float, span: Span | None = None) -> list[ClipFeature]:
        """The stretches of sound a question listens to, in order of time.

        Without a span they are the original's, evenly spaced from 0 to `(duration - clip_seconds) * (1 - 1 / count)`.
        With one, and live, the same rule over its seconds, and for each the nearest that reaches into the span: sound
        from elsewhere would pass for what was heard then. The same one may stand several times, as it does upstream
        for sound shorter than `clip_seconds`.
        """
        with self._lock:
            whole = list(self._whole_clips)
            clips = [*self._clips.items.values(), *whole]
        if not clips or (span is None and not self.live):
            return whole
        cut = (span or Span(0.0, self.duration)).within(self.duration)
        clips = sorted(
            (clip for clip in clips if clip.start < cut.end and clip.end > cut.start), key=lambda clip: clip.start
        )
        if not clips:
            return []
        known = np.array([clip.start for clip in clips])
        return [clips[i] for i in nearest(known, rule_over(cut, count, clip_seconds))]

    def frames_in(self, span: Span | None = None) -> list[FrameFeature]:
        """All pictures of a span in order of time; without one, all there are."""
        there = self._in_order()
        first, last = there.within(span.within(self.duration)) if span else (0, len(there.frames))
        return there.frames[first:last]

    def clips_beside(self) -> list[ClipFeature]:
        """All stretches of sound in order of time, but those of the whole-clip rule."""
        with self._lock:
            return sorted(self._clips.items.values(), key=lambda clip: clip.start)

    def reach(self, time: float) -> None:
        """A live source has come so far, whether or not there was anything new; time: seconds."""
        with self._lock:
            self.duration = max(self.duration, time)
            self._make_room(self._frames, self._clips)

    def forget(self, span: Span) -> None:
        """Give up what was seen and heard in a span, and every stretch of sound that reaches into it.

        What was saved of a file stays saved: `vllama index rm` removes that. A conversation about a file keeps what
        it has read: begin another one.
        """
        with self._lock:
            cut = span.within(self.duration)
            self.remembered = None
            self._frames.keep(lambda frame: not cut.start <= frame.time <= cut.end)
            self._clips.keep(lambda clip: clip.end <= cut.start or clip.start >= cut.end)
            self._whole_clips = tuple(c for c in self._whole_clips if c.end <= cut.start or c.start >= cut.end)
            self.forgets += 1
            self._changed()

    def frame(self, index: int) -> FrameFeature | None:
        """The picture of that number."""
        return self._frames.items.get(index)

    def has_frame(self, index: int, *, exactly: bool = False) -> bool:
        """Whether that picture is there; exactly: with the numbers that the encoder gives for itself."""
        frame = self.frame(index)
        return frame is not None and (frame.equal or not exactly)

    def has_clip(self, start: float) -> bool:
        """Whether the stretch of sound from there on was encoded, beside those of the whole-clip rule."""
        return start in self._clips.items

    @property
    def frame_count(self) -> int:
        """Pictures that are there."""
        return len(self._frames.items)

    @property
    def version(self) -> int:
        """Another one whenever a picture came, went, or got other features."""
        return self._version

    @property
    def clip_count(self) -> int:
        """Stretches of sound encoded, those of the whole-clip rule included."""
        return len(self._clips.items) + len(self._whole_clips)

    @property
    def whole_clips(self) -> tuple[ClipFeature, ...]:
        """The stretches of the whole-clip rule, in their order."""
        return self._whole_clips

    @property
    def bytes(self) -> int:
        """What the features take, where there is a budget."""
        return self._frames.bytes + self._clips.bytes

    @property
    def held(self) -> float:
        """Seconds since the oldest that is kept, of a live source."""
        with self._lock:
            frames, clips = islice(self._frames.items.values(), 1), islice(self._clips.items.values(), 1)
            starts = [*(frame.start for frame in frames), *(clip.start for clip in clips)]
            return self.duration - min(starts) if starts else 0.0

    def _changed(self) -> None:
        self._version += 1
        self._sorted = None  # it would hold on to what is given up

    def _make_room(self, own: _Either, other: _Either) -> None:
        """Bring everything into the budget again, what was seen and what was heard alike."""
        if self.budget is None:
            return
        if self.budget.seconds is not None:
            for kept in (own, other):
                kept.expire(self.duration - self.budget.seconds)
        while self.budget.bytes is not None and self.bytes > self.budget.bytes and len(own.past) + len(other.past) > 1:
            max(other, own, key=lambda kept: kept.spare(self.duration)).thin()

    def _in_order(self) -> _Sorted:
        with self._lock:
            version, there = self._version, self._sorted
            if there is not None and there.version == version:
                return there
            frames = list(self._frames.items.values())
        there = _Sorted(frames, version)
        with self._lock:
            if self._version == version:  # else it would hold on to what was given up meanwhile
                self._sorted = there
        return there


def rule_over(span: Span, count: int, length: float = 0.0) -> NDArray[np.float64]:
    """Where in a span the whole-clip rule looks: `count` starts, the last of them a step before its end.

    Args:
        span: counted from the start. length: seconds of each, so that it ends inside.
    """
    room = max(span.end - span.start - length, 0.0)
    return span.start + room * np.arange(count) / count


def nearest(known: NDArray[np.float64], wanted: NDArray[np.float64]) -> list[int]:
    """For each value wanted the index of the nearest known one, the first of several as near. known: ascending."""
    after = np.clip(np.searchsorted(known, wanted), 1, max(len(known) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(known) - 1)
    found = np.where(wanted - known[before] <= known[after] - wanted, before, after)
    return [int(i) for i in np.searchsorted(known, known[found])]


class _Sorted:
    """Pictures in order of time, made once for as long as none is added."""

    def __init__(self, frames: list[FrameFeature], version: int) -> None:
        self.version = version
        self.frames = sorted(frames, key=lambda frame: frame.index)
        self.indices = np.array([frame.index for frame in self.frames], np.float64)
        self.times = np.array([frame.time for frame in self.frames], np.float64)

    def within(self, span: Span) -> tuple[int, int]:
        """First and last + 1 of those in it."""
        return int(np.searchsorted(self.times, span.start, "left")), int(np.searchsorted(self.times, span.end, "right"))
