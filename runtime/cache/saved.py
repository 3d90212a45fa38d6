"""What is on disk of a timeline: chunk files of features, and a note of what they are of; reading changes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..bundle import cache_dir
from ..chunk import Chunk, open_chunk
from ..errors import FileError
from ..timeline import ClipFeature, FrameFeature, Timeline
from ..types import Modality
from .content import CONTENT_DIGITS

SCHEMA = 4
ABOUT = "about.json"
MORE_FILES = "allow more open files" if os.name == "nt" else "allow more open files with `ulimit -n`"
_RANKS = {
    "frame_index": 1, "frame_time": 1, "frame_of": 1, "frame_equal": 1, "frame_crc32": 1, "frame_features": 3,
    "clip_span": 2, "clip_whole": 1, "clip_crc32": 1, "clip_features": 2,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shared:
    """A picture that has the features of another one: see `FrameFeature`."""

    index: int
    time: float
    of: int
    equal: bool


class Rows(NamedTuple):
    """What a chunk holds: encoded pictures, stretches of sound, those of the whole-clip rule, and shared pictures."""

    frames: list[FrameFeature]
    clips: list[ClipFeature]
    whole: tuple[ClipFeature, ...]
    shared: list[Shared]


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
    kind: Modality
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

    @cached_property
    def numbers(self) -> frozenset[int]:
        """Of all pictures, also those that share the features of another one, if that is there."""
        found = [chunk.arrays() for chunk in self.chunks if "frame_index" in chunk.parts]
        if not found:
            return frozenset()
        index, of = (np.concatenate([arrays[name] for arrays in found]) for name in ("frame_index", "frame_of"))
        return frozenset(index[np.isin(of, index[of == index])].tolist())

    @property
    def frames(self) -> int:
        """Pictures."""
        return len(self.numbers)

    @property
    def shared(self) -> int:
        """Those of them that have the features of another one."""
        return self.frames - sum(c.parts["frame_crc32"].shape[0] for c in self.chunks if "frame_crc32" in c.parts)

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

    def damaged(self) -> list[tuple[Chunk, int]]:
        """Chunks with features that are no longer what was written, and how many of each; all features are read.

        Raises:
            FileError: one cannot be read now.
        """
        counts = ((chunk, sum(len(_damaged(chunk, kind)) for kind in ("frame", "clip"))) for chunk in self.chunks)
        return [(chunk, count) for chunk, count in counts if count]

    def fill(self, timeline: Timeline) -> None:
        """Add every feature, mapped, but those that are damaged.

        Raises:
            FileError: one cannot be read now.
        """
        found = [rows(intact(chunk)) for chunk in self.chunks]
        own = {frame.index: frame for each in found for frame in each.frames}
        for frame in own.values():
            timeline.add_frame(frame)
        for shared in (shared for each in found for shared in each.shared):
            shown = timeline.frame(shared.index)
            if shared.of in own and (shown is None or not shown.equal or shown.of == shared.of):
                timeline.add_frame(share(shared, own[shared.of]))
        for each in found:
            for clip in each.clips:
                timeline.add_clip(clip)
            if each.whole:
                timeline.replace_whole_clips(each.whole)


def timelines_dir() -> Path:
    """Where timelines are saved, each in a folder of its own."""
    return cache_dir() / "timelines"


def timeline_folder(content: str, model: str) -> Path:
    """Where the timeline of a content (sha256) and of encoders (`Bundle.encoders_hash`) is saved, or would be."""
    return timelines_dir() / f"{content[:CONTENT_DIGITS]}-{model[:16]}"


def read_saved(folder: Path, model: str, content: str) -> Saved:
    """What a folder holds of a timeline; no feature is read.

    Raises:
        FileError: it cannot be read now, which says nothing of what is in it.
    """
    while True:
        try:
            with reading(folder):
                return _read(folder, {"schema": SCHEMA, "model": model, "content": content})
        except FileNotFoundError:
            continue  # a chunk was merged into another one just now


def read_about(folder: Path) -> About:
    """What a folder says it holds.

    Raises:
        FileError: it says nothing that can be read; the message has only the reason.
    """
    try:
        return _read_about(folder)
    except OSError as error:
        raise FileError(f"{ABOUT}: {error.strerror}") from error


def _read_about(folder: Path) -> About:
    try:
        about = _ABOUT.validate_python(json.loads((folder / ABOUT).read_text("utf-8")))
    except (ValueError, ValidationError) as error:
        raise FileError(f"{ABOUT} cannot be read") from error
    if about.schema != SCHEMA:
        raise FileError(f"was made by another version (schema {about.schema})")
    return about


def share(shared: Shared, own: FrameFeature) -> FrameFeature:
    """A shared picture with the features of the one that was encoded in its stead."""
    return FrameFeature(shared.index, shared.time, own.features, of=own.index, equal=shared.equal)


def intact(chunk: Chunk) -> dict[str, NDArray[Any]]:
    """Its tensors without what is damaged; the stretches of the whole-clip rule are all of use or none."""
    arrays = chunk.arrays()
    frames, clips = (np.array(_damaged(chunk, kind), np.int64) for kind in ("frame", "clip"))
    if len(frames):
        own = np.flatnonzero(arrays["frame_of"] == arrays["frame_index"])
        for name in (name for name in arrays if name.startswith("frame_")):
            gone = frames if name in ("frame_features", "frame_crc32") else own[frames]
            arrays[name] = np.delete(arrays[name], gone, axis=0)
    if len(clips):
        whole = np.flatnonzero(arrays["clip_whole"])
        gone = np.union1d(clips, whole) if np.isin(whole, clips).any() else clips
        for name in (name for name in arrays if name.startswith("clip_")):
            arrays[name] = np.delete(arrays[name], gone, axis=0)
    return arrays


def rows(arrays: dict[str, NDArray[Any]]) -> Rows:
    """What the tensors of a chunk stand for."""
    found = Rows([], [], (), [])
    whole: list[ClipFeature] = []
    if "frame_index" in arrays:
        features = iter(arrays.get("frame_features", ()))
        columns = (arrays[f"frame_{name}"].tolist() for name in ("index", "time", "of", "equal"))
        for index, time, of, equal in zip(*columns, strict=True):
            if index == of:
                found.frames.append(FrameFeature(index, time, next(features)))
            else:
                found.shared.append(Shared(index, time, of, bool(equal)))
    if "clip_span" in arrays:
        spans, flags = arrays["clip_span"].tolist(), arrays["clip_whole"].tolist()
        for (start, end), is_whole, features in zip(spans, flags, arrays["clip_features"], strict=True):
            (whole if is_whole else found.clips).append(ClipFeature(start, end, features))
    return found._replace(whole=tuple(whole))


def files(folder: Path) -> list[Path]:
    """What is in a folder, in order; `glob` would give nothing where the system refuses to say.

    Raises:
        OSError: it refuses.
    """
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what the system says into our errors; but of a file that is gone, the caller knows what that means."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        what = error.filename or path
        raise FileError(f"{what}: cannot be read ({error.strerror}); check its permissions, or {MORE_FILES}") from error


def _damaged(chunk: Chunk, kind: str) -> tuple[int, ...]:
    with reading(chunk.path):
        return chunk.damaged(kind)


def _read(folder: Path, says: dict[str, object]) -> Saved:
    chunks: list[Chunk] = []
    broken: list[tuple[Path, str]] = []
    there = files(folder)
    for path in (path for path in there if path.suffix == ".safetensors"):
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
            about = _read_about(folder)
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
        leftover=(*(path for path in merged if path.exists()), *(path for path in there if path.suffix == ".part")),
    )


def _check(chunk: Chunk, says: dict[str, object], others: Sequence[Chunk]) -> None:
    for name, value in says.items():
        if chunk.about.get(name) != value:
            raise FileError(f"is of another {name}")
    shapes = {name: part.shape for name, part in chunk.parts.items()}
    if any(len(shape) != _RANKS.get(name) for name, shape in shapes.items()):
        raise FileError("holds something else")

    def count(*names: str) -> int:
        counts = {shapes[name][0] if name in shapes else 0 for name in names}
        if len(counts) > 1:
            raise FileError("its parts do not fit each other")
        return counts.pop()

    count("clip_span", "clip_whole", "clip_features", "clip_crc32")
    pictures, encoded = count("frame_index", "frame_time", "frame_of", "frame_equal"), 0
    if pictures:
        arrays = chunk.arrays()
        encoded = int((arrays["frame_index"] == arrays["frame_of"]).sum())
    if count("frame_features", "frame_crc32") != encoded:
        raise FileError("its parts do not fit each other")
    for name in ("frame_features", "clip_features"):
        forms = {(c.parts[name].dtype, c.parts[name].shape[1:]) for c in (*others, chunk) if name in c.parts}
        if name in shapes and len(forms) > 1:
            raise FileError("has features of another form")
