"""A file -> a timeline: what is asked for and is not there yet is decoded in one thread and encoded in another."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from .ahead import ahead
from .change import Repeats
from .encoders import Encoders
from .errors import MediaError
from .fbank import clip_bounds
from .media import MediaInfo, read_frames
from .pixels import frame_indices
from .progress import counted
from .sound import count_samples, read_samples
from .spec import AudioSpec, ModelSpec
from .timeline import ClipFeature, FrameFeature, Timeline, nearest, rule_over
from .types import Float32, Frame, Samples, Span

_TICK = 1e-6  # seconds, by which a picture may seem to be late through rounding
_PICTURES_AHEAD = 4
_MOST_HELD = 32  # pictures, new ones and repeats, before those that are new are encoded
_SOUNDS_AHEAD = 8
_AROUND_FPS = 1.0  # pictures per second around a moment
Bounds = tuple[int, int]


@dataclass(frozen=True)
class Need:
    """What is asked for beside the whole-clip rule.

    fps: pictures per second, and above 0 all of the sound. span: what the rule asks for there; a moment: no more than
    a question about it can use, the sound around it and the pictures there or, with fps above 0, all until then.
    audio: False: no sound.
    """

    fps: float = 0.0
    span: Span | None = None
    audio: bool = True

    @property
    def is_of_moment(self) -> bool:
        """Whether the rest of the clip is not asked for."""
        return self.span is not None and self.span.is_moment

    @property
    def fps_throughout(self) -> float:
        """Pictures per second of the whole clip."""
        return 0.0 if self.is_of_moment else self.fps


@dataclass(frozen=True)
class Missing:
    """What has to be encoded: pictures by number, stretches of sound by their first and last + 1 samples.

    whole: those of the whole-clip rule, all of them or none: they share one removal of means, and so they are no
    substitute for others, nor others for them. exact: pictures for which no other may stand, unless it is the same to
    the bit: those that a rule of the original asks for. known: pictures that the next missing one may repeat.
    """

    frames: list[int]
    whole: list[Bounds]
    clips: list[Bounds]
    exact: frozenset[int] = frozenset()
    known: dict[int, FrameFeature] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frames) + len(self.whole) + len(self.clips)


class Keeper(Protocol):
    """Takes what was encoded."""

    def add(
        self, frames: Sequence[FrameFeature] = (), clips: Sequence[ClipFeature] = (), whole: Sequence[ClipFeature] = ()
    ) -> None:
        """Keep these."""


def is_covered(timeline: Timeline, need: Need, spec: ModelSpec) -> bool:
    """Whether all that is needed is there, as far as can be told without opening the file."""
    rule = frame_indices(spec.video.num_frames, timeline.length)
    if not all(timeline.has_frame(index, exactly=True) for index in rule):
        return False
    sound = need.audio and timeline.sound and spec.audio is not None
    if sound and (timeline.samples is None or not timeline.whole_clips):
        return False
    if need.fps > timeline.fps or (need.fps > 0 and sound and not timeline.listened):
        return False
    return need.span is None or (
        _is_dense(timeline, need.span, spec.video.num_frames) and (timeline.listened or not sound)
    )


def find_missing(info: MediaInfo, timeline: Timeline, need: Need, spec: ModelSpec) -> Missing:
    """What a timeline lacks of what is needed; counts its samples if nobody did.

    Raises:
        MediaError: its sound cannot be decoded.
    """
    exact, beside = _wanted_frames(info, timeline, need, spec.video.num_frames)
    frames = [index for index in exact if not timeline.has_frame(index, exactly=True)]
    frames += [index for index in beside if not timeline.has_frame(index)]
    whole: list[Bounds] = []
    clips: list[Bounds] = []
    if need.audio and spec.audio and info.has_audio:
        if timeline.samples is None:
            timeline.samples = count_samples(info, spec.audio.sample_rate)
        if not timeline.whole_clips:
            whole = clip_bounds(timeline.samples, spec.audio)
        clips = _wanted_clips(info, timeline, need, spec.audio)
    return Missing(sorted(frames), whole, clips, frozenset(exact), _known(timeline, frames))


def encode_missing(
    info: MediaInfo,
    missing: Missing,
    encoders: Encoders,
    spec: ModelSpec,
    dtype: DTypeLike,
    keeper: Keeper,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Decode and encode, side by side, and hand over each feature as it comes.

    Args:
        dtype: how features are kept.
        progress: called with (encoded, to encode), pictures and stretches of sound together.

    Raises:
        MediaError: a stream cannot be decoded, or is too short for one analysis window.
    """
    say = counted(progress, len(missing))
    if missing.frames:
        with closing(_frames(info, missing, encoders, spec.video.image_size, dtype)) as frames:
            for frame in frames:
                keeper.add(frames=[frame])
                say(1)
    if not (spec.audio and (missing.whole or missing.clips)):
        return
    held: list[Samples] = []
    sounds = ahead(_sounds(info, missing, spec.audio), _SOUNDS_AHEAD)
    with closing(sounds):
        for clip, is_whole in sounds:
            if not is_whole:
                features = _heard(info, encoders, [clip])[0].astype(dtype)
                keeper.add(clips=[ClipFeature(clip.start, clip.end, features)])
                say(1)
                continue
            held.append(clip)
            if len(held) == len(missing.whole):
                encoded = _heard(info, encoders, held).astype(dtype)
                keeper.add(whole=[ClipFeature(c.start, c.end, f) for c, f in zip(held, encoded, strict=True)])
                say(len(held))


def _frames(
    info: MediaInfo, missing: Missing, encoders: Encoders, size: int, dtype: DTypeLike
) -> Generator[FrameFeature, None, None]:
    """The missing pictures in order of time, each encoded unless it repeats the one that was encoded before it."""
    repeats = Repeats()
    batch = _Batch(encoders, dtype)
    source = read_frames(info, sorted({*missing.frames, *missing.known}), size)
    with closing(ahead(source, max(_PICTURES_AHEAD, encoders.batch))) as decoded:
        for frame in decoded:
            known = missing.known.get(frame.index)
            exactly = frame.index in missing.exact
            repeat = None if known else repeats.find(frame.index, frame.time, frame.pixels, exactly=exactly)
            if repeat is not None:
                batch.repeated(repeat)
            else:
                repeats.encoded(frame.pixels, known or batch.add(frame))
            if batch.is_full:
                yield from batch.encoded()
        yield from batch.encoded()


class _Batch:
    """Pictures that are encoded together, and those between them that have the features of another one."""

    def __init__(self, encoders: Encoders, dtype: DTypeLike) -> None:
        self._encoders = encoders
        self._shape, self._dtype = encoders.frame_shape, dtype
        self._held: list[FrameFeature] = []
        self._new: list[tuple[Frame, FrameFeature]] = []

    @property
    def is_full(self) -> bool:
        """Whether nothing is gained by waiting for more."""
        return len(self._new) in (0, self._encoders.batch) or len(self._held) >= _MOST_HELD

    def repeated(self, feature: FrameFeature) -> None:
        """Take one that may have the features of another one in here."""
        self._held.append(feature)

    def add(self, frame: Frame) -> FrameFeature:
        """Take one that is new: what comes back has its features after `encoded`."""
        feature = FrameFeature(frame.index, frame.time, np.empty(self._shape, self._dtype))
        self._held.append(feature)
        self._new.append((frame, feature))
        return feature

    def encoded(self) -> list[FrameFeature]:
        """All of them, in order of time; it is empty then."""
        if self._new:
            made = self._encoders.frame_features([frame for frame, _ in self._new])
            for (_, feature), row in zip(self._new, made, strict=True):
                feature.features[...] = row
        held, self._held, self._new = self._held, [], []
        return held


def _known(timeline: Timeline, missing: list[int]) -> dict[int, FrameFeature]:
    """For each missing picture the encoded one before it, or one that is the same to the bit as an encoded one.

    So a picture has the same features whether or not those of the whole-clip rule were asked for first.
    """
    known = [frame for frame in timeline.frames_in() if frame.equal]
    places = np.searchsorted([frame.index for frame in known], missing) - 1
    return {known[place].index: known[place] for place in places.tolist() if place >= 0}


def _sounds(info: MediaInfo, missing: Missing, spec: AudioSpec) -> Iterator[tuple[Samples, bool]]:
    """All stretches in one pass over the sound, and whether each is of the whole-clip rule."""
    wanted = sorted([*((bounds, True) for bounds in missing.whole), *((bounds, False) for bounds in missing.clips)])
    sounds = read_samples(info, [bounds for bounds, _ in wanted], spec.sample_rate)
    yield from zip(sounds, (is_whole for _, is_whole in wanted), strict=True)


def _heard(info: MediaInfo, encoders: Encoders, clips: Sequence[Samples]) -> Float32:
    try:
        return encoders.clip_features(clips)
    except MediaError as error:  # too short, and says it of samples, which have no name
        raise MediaError(f"{info.path}: {error}") from error


def _is_dense(timeline: Timeline, span: Span, num_frames: int) -> bool:
    """Whether what was encoded lies so near together that the rule over the span needs nothing between."""
    if not timeline.length:
        return True
    cut = span.within(timeline.duration)
    return timeline.fps > 0 and (cut.end - cut.start) / num_frames >= 1.0 / timeline.fps


def _wanted_frames(info: MediaInfo, timeline: Timeline, need: Need, num_frames: int) -> tuple[set[int], set[int]]:
    """Those that a rule asks for, and those beside them."""
    times = info.frame_times
    wanted, beside = set(frame_indices(num_frames, len(times))), set[int]()
    fps = need.fps or (_AROUND_FPS if need.is_of_moment else 0.0)
    if fps > 0 and info.kind == "video":
        grid = np.arange(0.0, info.duration, 1.0 / fps)
        beside.update(int(i) for i in np.searchsorted(times, grid + _TICK, "right") - 1 if i >= 0)
    if need.span is not None and need.span.is_moment:
        around = need.span.within(info.duration)
        start = 0.0 if need.fps > 0 else around.start
        beside = {i for i in beside if start <= times[i] <= around.end}
    if need.span is not None and not _is_dense(timeline, need.span, num_frames):
        cut = need.span.within(info.duration)
        first, last = (int(i) for i in (np.searchsorted(times, cut.start), np.searchsorted(times, cut.end, "right")))
        first, last = (first, last) if first < last else (0, len(times))
        wanted.update(first + i for i in nearest(times[first:last], rule_over(cut, num_frames)))
    return wanted, beside - wanted


def _wanted_clips(info: MediaInfo, timeline: Timeline, need: Need, spec: AudioSpec) -> list[Bounds]:
    assert timeline.samples is not None
    count, size = timeline.samples, round(spec.clip_seconds * spec.sample_rate)
    last = max(count - size, 0)
    starts: set[int] = set()
    if timeline.listened:
        return []
    cut = None if need.span is None else need.span.within(info.duration)
    if need.fps > 0 or need.is_of_moment:
        # Half overlapping, so that whatever happens is whole in one of them; the last one ends with the sound.
        starts = {*range(0, last, max(size // 2, 1)), last}
        if cut is not None and need.is_of_moment:
            first, end = (round((second - info.sound_start) * spec.sample_rate) for second in (cut.start, cut.end))
            starts = {start for start in starts if first - size <= start <= end}
    elif cut is not None:
        seconds = rule_over(cut, spec.num_clips, spec.clip_seconds) - info.sound_start
        starts = {min(max(round(value * spec.sample_rate), 0), last) for value in seconds}
    return [
        (start, min(start + size, count))
        for start in sorted(starts)
        if not timeline.has_clip(info.sound_start + start / spec.sample_rate)
    ]
