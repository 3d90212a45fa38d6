"""A file -> a timeline: each picture and each stretch of sound is encoded once."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike

from .encoders import Encoders
from .fbank import clip_bounds
from .media import MediaInfo, read_frames
from .pixels import frame_indices
from .sound import count_samples, read_samples
from .spec import AudioSpec, ModelSpec
from .timeline import ClipFeature, FrameFeature, Timeline

_TICK = 1e-6  # seconds, by which a picture may seem to be late through rounding


def index_file(
    info: MediaInfo,
    timeline: Timeline,
    encoders: Encoders,
    spec: ModelSpec,
    dtype: DTypeLike,
    *,
    audio: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fill a timeline with what the whole-clip rule asks for and, at `timeline.fps`, with what lies between.

    Args:
        dtype: how features are kept.
        audio: False leaves the sound out.
        progress: called with (encoded, to encode), pictures and stretches of sound together.

    Raises:
        MediaError: a stream cannot be decoded, or is too short for one analysis window.
    """
    started = time.perf_counter()
    wanted = _wanted_frames(info, spec.video.num_frames, timeline.fps)
    whole: list[tuple[int, int]] = []
    between: list[tuple[int, int]] = []
    if audio and spec.audio and info.has_audio:
        whole, between = _wanted_clips(info, spec.audio, timeline.fps)
    total, done = len(wanted) + len(whole) + len(between), 0

    for frame in read_frames(info, wanted, spec.video.image_size):
        timeline.add_frame(FrameFeature(frame.index, frame.time, encoders.frame_features(frame).astype(dtype)))
        done += 1
        if progress:
            progress(done, total)
    if spec.audio:
        # Only the whole-clip rule's clips share one removal of means: they are the original's, number for number.
        clips = list(read_samples(info, whole, spec.audio.sample_rate)) if whole else []
        for clip, features in zip(clips, encoders.clip_features(clips) if clips else (), strict=True):
            timeline.add_clip(ClipFeature(clip.start, clip.end, features.astype(dtype)), whole=True)
            done += 1
        for clip in read_samples(info, between, spec.audio.sample_rate) if between else ():
            timeline.add_clip(
                ClipFeature(clip.start, clip.end, encoders.clip_features([clip])[0].astype(dtype)), whole=False
            )
            done += 1
            if progress:
                progress(done, total)
    timeline.encode_ms = (time.perf_counter() - started) * 1000.0


def _wanted_frames(info: MediaInfo, num_frames: int, fps: float) -> list[int]:
    length = len(info.frame_times)
    if not length:
        return []
    wanted = set(frame_indices(num_frames, length))
    if fps > 0 and info.kind == "video":
        grid = np.arange(0.0, info.duration, 1.0 / fps)
        wanted.update(int(i) for i in np.searchsorted(info.frame_times, grid + _TICK, "right") - 1 if i >= 0)
    return sorted(wanted)


def _wanted_clips(info: MediaInfo, spec: AudioSpec, fps: float) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    count = count_samples(info, spec.sample_rate)
    whole = clip_bounds(count, spec)
    size = round(spec.clip_seconds * spec.sample_rate)
    # Half overlapping, so that whatever happens is whole in one of them; the last one ends with the sound.
    last = max(count - size, 0)
    starts = [*range(0, last, max(size // 2, 1)), last] if fps > 0 else []
    return whole, [(start, min(start + size, count)) for start in starts]
