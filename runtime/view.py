"""What a question looks at and listens to: features of a span, as media for its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .encoders import Encoders
from .errors import SpecError
from .memory import SHORT, Memory
from .pixels import frame_indices, timestamps
from .prompt import Media, Part
from .remembered import memory_limit
from .segments import Segment, plan_segments
from .spec import ModelSpec
from .timeline import FrameFeature, Timeline
from .types import Embeds, Long, Modality, Span

_Seen = tuple[Embeds | None, tuple[float, ...], int]  # of the picture: embeds, times, how many frames went in
_COVERED_SECONDS = 4.0  # between two frames: what happens in less is as likely to be seen as not
_VIEWS_KEPT = 8
_MOST_FRAMES = 1024  # that a memory of a span is made of, evenly chosen: a question does not pay for its length


@dataclass(frozen=True)
class View:
    """The media of a span, and the times they come from.

    span: None for the whole clip. frame_times: seconds of the frames, or of the first of those that were merged into
    one. audio_spans: (from, to) in seconds. frames_seen: how many frames went in.
    """

    span: Span | None
    long: Long
    media: Media
    frame_times: tuple[float, ...]
    audio_spans: tuple[tuple[float, float], ...]
    frames_seen: int


def own_long(spec: ModelSpec) -> Long:
    """How a model looks at more frames than the original takes, where nothing else is asked for."""
    return spec.llm.long or ("memory" if memory_limit(spec) else "frames")


class Viewer:
    """Chooses features of one timeline and runs the two small Q-formers over them.

    Args:
        audio: whether to listen.
    """

    def __init__(self, timeline: Timeline, encoders: Encoders, spec: ModelSpec, *, audio: bool) -> None:
        self.timeline = timeline
        self._encoders = encoders
        self._spec = spec
        self._audio = audio and spec.audio is not None
        self._views: dict[tuple[Span | None, Long, int, int, float], View] = {}
        self._forgets = timeline.forgets
        self._limit = memory_limit(spec)

    def mode(self, span: Span | None, asked: Long | None) -> Long:
        """How a span is looked at: as asked, or by the original's frames where they cover it, else the model's own way.

        Where there are no more frames than the original takes, there is nothing but the original's way, and nothing but
        that is chosen where a file was not encoded throughout: it would show what others asked about. A moment is
        looked at with the memory of all that led up to it where memory is the model's own way.

        Raises:
            SpecError: the model cannot do what was asked.
        """
        timeline, moment = self.timeline, span is not None and span.is_moment
        known = len(timeline.frames_in(None if moment else span))
        if moment and known and not timeline.live:
            known = timeline.length  # what does not lead up to the moment need not be encoded
        if timeline.kind != "video" or known <= self._spec.video.num_frames:
            return "frames"
        if asked == "memory" and not self._limit:
            raise SpecError(f"--long memory: {self._spec.name} has too few frame positions for it; use --long segments")
        own = own_long(self._spec)
        if moment and own == "memory":  # also of a short clip: the newest of its frames come one by one
            return asked or own
        cut = self.cut(span)
        covered = cut.end - cut.start <= _COVERED_SECONDS * self._spec.video.num_frames
        throughout = timeline.live or timeline.fps > 0
        return asked or (own if throughout and not covered else "frames")

    def cut(self, span: Span | None) -> Span:
        """The seconds of a span, counted from the start and cut to the clip."""
        return (span or Span.whole()).within(self.timeline.duration)

    def parts(self, span: Span | None, most: int) -> tuple[Segment, ...]:
        """A span in pieces with as many frames each as the original takes, `most` at the most."""
        return plan_segments(self.cut(span), len(self.timeline.frames_in(span)), self._spec.video.num_frames, most)

    def look(self, span: Span | None, long: Long) -> View:
        """The original's rule over the span, or all its frames merged to a memory; long: "frames" or "memory".

        The last views are kept: what was prepared is not computed again for the question. None outlives a `forget`.
        """
        timeline = self.timeline
        if self._forgets != timeline.forgets:
            self._views, self._forgets = {}, timeline.forgets
        # Live, as many stretches of sound may come as go: the duration tells, whose end the span counts from anyway.
        key = (span, long, timeline.version, timeline.clip_count, timeline.duration)
        view = self._views.get(key)
        if view is None:
            while len(self._views) >= _VIEWS_KEPT:
                del self._views[next(iter(self._views))]
            view = self._views[key] = self._look(span, long)
        return view

    def _look(self, span: Span | None, long: Long) -> View:
        frames = self.timeline.choose_frames(self._spec.video.num_frames, span)
        clips = []
        if self._audio and self._spec.audio:
            clips = self.timeline.choose_clips(self._spec.audio.num_clips, self._spec.audio.clip_seconds, span)
        heard = tuple(sorted({(clip.start, clip.end) for clip in clips}))
        video, times, seen = self._memory(span) if long == "memory" else self._original(frames)
        media = Media(
            video=video,
            audio=self._encoders.audio_embeds(np.stack([clip.features for clip in clips])) if clips else None,
            num_frames=len(frames),
            seconds=self._seconds(frames, span),
        )
        return View(span, long, media, times, heard, seen)

    def look_at_parts(self, span: Span | None, parts: tuple[Segment, ...]) -> View:
        """Each part by the original's rule, one after the other, introduced with its times."""
        views = [self.look(part.span, "frames") for part in parts]
        media = Media(parts=tuple(Part(part.intro, view.media) for part, view in zip(parts, views, strict=True)))
        times = tuple(time for view in views for time in view.frame_times)
        spans = tuple(sorted({span for view in views for span in view.audio_spans}))
        return View(span, "segments", media, times, spans, len(times))

    def _seconds(self, frames: Sequence[FrameFeature], span: Span | None) -> str:
        """By the average rate, as upstream, of a whole clip; of a span, which upstream knows none of, their own."""
        if span is None:
            return timestamps([frame.index for frame in frames], self.timeline.frame_rate or 1.0)
        return ", ".join(str(round(frame.time, 1)) for frame in frames)

    def _original(self, frames: Sequence[FrameFeature]) -> _Seen:
        modality: Modality = "image" if self.timeline.kind == "image" else "video"
        embeds = self._encoders.video_embeds(_stacked(frames), modality) if frames else None
        return embeds, tuple(frame.time for frame in frames), len(frames)

    def _memory(self, span: Span | None) -> _Seen:
        whole = self.timeline.remembered
        if span is None and whole is not None and whole.is_of(self.timeline.frame_count):
            return Embeds(whole.embeds, "video"), whole.starts, whole.frames
        chosen = self._remembered_of(span)
        memory = Memory.over(
            [frame.time for frame in chosen],
            [frame.features for frame in chosen],
            self._limit,
            num_frames=self._spec.video.num_frames,
        )
        merged = memory.frames_now() if span is not None and span.is_moment else memory.frames()
        return self._encoders.video_embeds(merged.features), tuple(start for start, _ in merged.times), len(chosen)

    def _remembered_of(self, span: Span | None) -> list[FrameFeature]:
        """The frames a memory is made of: those of a span, or all until a moment, whose newest are never left out."""
        if span is None or not span.is_moment:
            return _thinned(self.timeline.frames_in(span))
        frames = self.timeline.frames_in()
        until = [frame for frame in frames if frame.time <= span.end] or list(frames[:1])
        older = max(0, len(until) - SHORT - 1)
        return [*_thinned(until[:older]), *until[older:]]


def _thinned(frames: Sequence[FrameFeature]) -> list[FrameFeature]:
    return [frames[i] for i in frame_indices(_MOST_FRAMES, len(frames))]


def _stacked(frames: Sequence[FrameFeature]) -> np.ndarray:
    return np.stack([frame.features for frame in frames])
