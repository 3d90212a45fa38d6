"""What is on disk of a timeline: chunk files of features, and a note of what they are of; reading changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from .bundle import cache_dir
from .chunk import Chunk, open_chunk
from .errors import FileError
from .timeline import ClipFeature, FrameFeature, Timeline

SCHEMA = 2
ABOUT = "about.json"
_RANKS = {"frame_features": 3, "frame_index": 1, "frame_time": 1, "clip_features": 2, "clip_span": 2, "clip_whole": 1}
Rows = tuple[list[FrameFeature], list[ClipFeature], tuple[ClipFeature, ...]]


@dataclass(frozen=True)
class About:
    """What a saved timeline is of: the fields of `Timeline`, and for people the model's name and the file.

    wanted_fps: the density that indexing began; above `fps` until it is complete. frames, clips: how many features
    there were when this was written: data comes first, so there are as many or more.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    schema: int
    model: str
    content: str
    kind: Literal["video", "audio", "image"]
    length: int
    duration: float
    frame_rate: float
    sound: bool
    samples: int | None
    fps: float
    listened: bool
    wanted_fps: float
    frames: int
    clips: int
    model_name: str
    path: str
    file_bytes: int
    mtime_ns: int


_ABOUT = TypeAdapter(About)


@dataclass(frozen=True)
class Saved:
    """What was found on disk. broken: files of no use, each with the reason. leftover: files that nothing needs."""

    about: About | None
    chunks: tuple[Chunk, ...]
    broken: tuple[tuple[Path, str], ...]
    leftover: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Of the features."""
        return sum(chunk.file_bytes for chunk in self.chunks)

    @property
    def frames(self) -> int:
        """Pictures."""
        return sum(chunk.parts["frame_index"].shape[0] for chunk in self.chunks if "frame_index" in chunk.parts)

    @property
    def clips(self) -> int:
        """Stretches of sound."""
        return sum(chunk.parts["clip_span"].shape[0] for chunk in self.chunks if "clip_span" in chunk.parts)

    @property
    def is_whole(self) -> bool:
        """Whether all is there that once was saved."""
        return (
            self.about is not None
            and not self.broken
            and self.frames >= self.about.frames
            and self.clips >= self.about.clips
        )

    def fill(self, timeline: Timeline) -> None:
        """Add every feature, mapped."""
        for chunk in self.chunks:
            frames, clips, whole = rows(chunk.arrays())
            for frame in frames:
                timeline.add_frame(frame)
            for clip in clips:
                timeline.add_clip(clip, whole=False)
            if whole:
                timeline.replace_whole_clips(whole)


def timelines_dir() -> Path:
    """Where timelines are saved, each in a folder of its own."""
    return cache_dir() / "timelines"


def timeline_folder(content: str, model: str) -> Path:
    """Where the timeline of a content (sha256) and of encoders (`Bundle.encoders_hash`) is saved, or would be."""
    return timelines_dir() / f"{content[:32]}-{model[:16]}"


def read_saved(folder: Path, model: str, content: str) -> Saved:
    """What a folder holds of a timeline; no feature is read."""
    while True:
        try:
            return _read(folder, {"schema": SCHEMA, "model": model, "content": content})
        except FileNotFoundError:
            continue  # a chunk was merged into another one just now


def read_about(folder: Path) -> About:
    """What a folder says it holds.

    Raises:
        FileError: it says nothing that can be read; the message has only the reason.
    """
    try:
        about = _ABOUT.validate_python(json.loads((folder / ABOUT).read_text("utf-8")))
    except OSError as error:
        raise FileError(f"{ABOUT}: {error.strerror}") from error
    except (ValueError, ValidationError) as error:
        raise FileError(f"{ABOUT} cannot be read") from error
    if about.schema != SCHEMA:
        raise FileError(f"was made by another version (schema {about.schema})")
    return about


def rows(arrays: dict[str, NDArray[Any]]) -> Rows:
    """The features of a chunk: pictures, stretches of sound, and those of the whole-clip rule."""
    frames: list[FrameFeature] = []
    clips: list[ClipFeature] = []
    whole: list[ClipFeature] = []
    if "frame_index" in arrays:
        numbers, times = arrays["frame_index"].tolist(), arrays["frame_time"].tolist()
        for number, time, features in zip(numbers, times, arrays["frame_features"], strict=True):
            frames.append(FrameFeature(number, time, features))
    if "clip_span" in arrays:
        spans, flags = arrays["clip_span"].tolist(), arrays["clip_whole"].tolist()
        for (start, end), is_whole, features in zip(spans, flags, arrays["clip_features"], strict=True):
            (whole if is_whole else clips).append(ClipFeature(start, end, features))
    return frames, clips, tuple(whole)


def _read(folder: Path, says: dict[str, object]) -> Saved:
    chunks: list[Chunk] = []
    broken: list[tuple[Path, str]] = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            chunk = open_chunk(path)
            _check(chunk, says, chunks)
            chunks.append(chunk)
        except FileNotFoundError:
            if not os.path.lexists(path):
                raise
            broken.append((path, "leads nowhere"))
        except FileError as error:
            broken.append((path, str(error)))
    about = None
    if (folder / ABOUT).exists():
        try:
            about = read_about(folder)
            if (about.model, about.content) != (says["model"], says["content"]):
                raise FileError("is of another timeline")
        except FileError as error:
            about = None
            broken.append((folder / ABOUT, str(error)))
    # Files that were merged are still there when that was interrupted.
    merged = {folder / str(name) for chunk in chunks for name in chunk.about.get("replaces", ())}
    return Saved(
        about=about,
        chunks=tuple(chunk for chunk in chunks if chunk.path not in merged),
        broken=tuple(pair for pair in broken if pair[0] not in merged),
        leftover=(*(path for path in merged if path.exists()), *folder.glob("*.part")),
    )


def _check(chunk: Chunk, says: dict[str, object], others: Sequence[Chunk]) -> None:
    for name, value in says.items():
        if chunk.about.get(name) != value:
            raise FileError(f"is of another {name}")
    shapes = {name: part.shape for name, part in chunk.parts.items()}
    if any(len(shape) != _RANKS.get(name) for name, shape in shapes.items()):
        raise FileError("holds something else")
    for kind in ("frame", "clip"):
        counts = [shape[0] for name, shape in shapes.items() if name.startswith(kind)]
        if len(counts) not in (0, 3) or len(set(counts)) > 1:
            raise FileError("its parts do not fit each other")
    for name in ("frame_features", "clip_features"):
        forms = {(c.parts[name].dtype, c.parts[name].shape[1:]) for c in (*others, chunk) if name in c.parts}
        if name in shapes and len(forms) > 1:
            raise FileError("has features of another form")
