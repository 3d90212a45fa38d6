"""Features over time: what is kept of a clip once it was seen and heard."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .errors import FileError
from .pixels import frame_indices
from .types import Float32, Span

_SCHEMA = "1"


@dataclass(frozen=True)
class FrameFeature:
    """One encoded picture: its number in display order, its time in seconds, (query_tokens, hidden_size)."""

    index: int
    time: float
    features: Float32


@dataclass(frozen=True)
class ClipFeature:
    """One encoded stretch of sound: from and to in seconds, (output_size,)."""

    start: float
    end: float
    features: Float32


@dataclass
class Timeline:
    """The features of one clip, each with its time.

    model: the encoders they were made with (`Bundle.encoders_hash`). content: sha256 of the file.
    length: pictures of the clip, of which some were encoded. duration: seconds. frame_rate: per second.
    sound: whether the clip has an audio track. fps: how densely beside the whole-clip rule it was encoded.
    encode_ms: what encoding cost.
    """

    model: str
    content: str
    kind: Literal["video", "audio", "image"]
    length: int
    duration: float
    frame_rate: float
    sound: bool
    fps: float = 0.0
    encode_ms: float = 0.0
    _frames: dict[int, FrameFeature] = field(default_factory=dict, repr=False)
    _whole_clips: list[ClipFeature] = field(default_factory=list, repr=False)
    _clips: list[ClipFeature] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add_frame(self, frame: FrameFeature) -> None:
        """Keep one picture; a second one of the same index replaces it."""
        with self._lock:
            self._frames[frame.index] = frame

    def add_clip(self, clip: ClipFeature, *, whole: bool) -> None:
        """Keep one stretch of sound; whole: it is one of those that the whole-clip rule asks for."""
        with self._lock:
            (self._whole_clips if whole else self._clips).append(clip)

    def choose_frames(self, count: int, span: Span | None = None) -> list[FrameFeature]:
        """The pictures a question looks at, in order of time.

        Without a span they are the original's: index arange(0, length, length / count) truncated. With one, the
        same rule over its seconds, and for each the nearest picture there is; fewer where the same is nearest twice.
        """
        with self._lock:
            frames = sorted(self._frames.values(), key=lambda frame: frame.index)
        if not frames:
            return []
        if span is None:
            wanted = np.array(frame_indices(count, self.length), np.float64)
            known = np.array([frame.index for frame in frames], np.float64)
        else:
            cut = span.within(self.duration)
            wanted = cut.start + (cut.end - cut.start) * np.arange(count) / count
            known = np.array([frame.time for frame in frames])
            inside = (known >= cut.start) & (known <= cut.end)
            if inside.any():
                frames = [frame for frame, keep in zip(frames, inside, strict=True) if keep]
                known = known[inside]
        return [frames[i] for i in sorted(set(_nearest(known, wanted)))]

    def choose_clips(self, count: int, clip_seconds: float, span: Span | None = None) -> list[ClipFeature]:
        """The stretches of sound a question listens to, in order of time.

        Without a span they are the original's, evenly spaced from 0 to `(duration - clip_seconds) * (1 - 1 / count)`.
        With one, the same rule over its seconds, and for each the nearest there is; the same one may stand several
        times, as it does upstream for sound shorter than `clip_seconds`.
        """
        with self._lock:
            clips = sorted([*self._clips, *self._whole_clips], key=lambda clip: clip.start)
            whole = list(self._whole_clips)
        if span is None or not clips:
            return whole
        cut = span.within(self.duration)
        room = max(cut.end - cut.start - clip_seconds, 0.0)
        known = np.array([clip.start for clip in clips])
        return [clips[i] for i in _nearest(known, cut.start + room * np.arange(count) / count)]

    def save(self, path: Path) -> None:
        """Write everything to one safetensors file, atomically.

        Raises:
            FileError: it cannot be written.
        """
        with self._lock:
            frames = [self._frames[index] for index in sorted(self._frames)]
            clips = [*self._whole_clips, *self._clips]
            whole = len(self._whole_clips)
        tensors: dict[str, np.ndarray] = {}
        if frames:
            tensors["frame_features"] = np.stack([frame.features for frame in frames])
            tensors["frame_index"] = np.array([frame.index for frame in frames], np.int64)
            tensors["frame_time"] = np.array([frame.time for frame in frames], np.float64)
        if clips:
            tensors["clip_features"] = np.stack([clip.features for clip in clips])
            tensors["clip_span"] = np.array([(clip.start, clip.end) for clip in clips], np.float64)
        about = {
            "schema": _SCHEMA, "model": self.model, "content": self.content, "kind": self.kind,
            "length": self.length, "duration": self.duration, "frame_rate": self.frame_rate, "sound": self.sound,
            "fps": self.fps, "whole_clips": whole,
        }  # fmt: skip
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _written_whole(path) as part:
                save_file(tensors, part, {"vllama": json.dumps(about)})
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {error.strerror}; free space or change the folder") from error

    @classmethod
    def load(cls, path: Path) -> Timeline:
        """Read what `save` wrote.

        Raises:
            FileError: it is not such a file, or damaged.
        """
        try:
            with safe_open(path, "np") as file:
                about = json.loads((file.metadata() or {})["vllama"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls._from_parts(about, tensors)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise FileError(f"{path}: not a saved timeline ({error}); delete it and index the clip again") from error

    @classmethod
    def _from_parts(cls, about: dict[str, object], tensors: dict[str, np.ndarray]) -> Timeline:
        whole = about.pop("whole_clips")
        if about.pop("schema") != _SCHEMA:
            raise ValueError("it was written by another version")
        timeline = cls(**about)  # type: ignore[arg-type]
        if "frame_features" in tensors:
            for index, time, features in zip(
                tensors["frame_index"], tensors["frame_time"], tensors["frame_features"], strict=True
            ):
                timeline.add_frame(FrameFeature(int(index), float(time), features))
        if "clip_features" in tensors:
            for number, (span, features) in enumerate(zip(tensors["clip_span"], tensors["clip_features"], strict=True)):
                timeline.add_clip(ClipFeature(float(span[0]), float(span[1]), features), whole=number < int(whole))  # type: ignore[call-overload]
        return timeline


def _nearest(known: np.ndarray, wanted: np.ndarray) -> list[int]:
    return [int(np.abs(known - value).argmin()) for value in wanted]


@contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """A file of another name that becomes `path` when everything was written, and vanishes otherwise."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
