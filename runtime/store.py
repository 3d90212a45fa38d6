"""The writer of a saved timeline: one process at a time, in files that appear whole or not at all."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .chunk import open_chunk, write_arrays, write_merged, write_whole
from .errors import DiskFullError, FileError
from .lock import locked
from .saved import ABOUT, SCHEMA, About, Rows, Saved, read_saved, rows, timeline_folder
from .timeline import ClipFeature, FrameFeature

LOCK = "lock"
_LARGE = 64 << 20  # bytes of a chunk that is not merged again


@dataclass
class Store:
    """The folder of one timeline: written by one process at a time, read by any number."""

    folder: Path
    model: str
    content: str
    _number: int | None = None
    _written: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, content: str, model: str) -> Store:
        """That of a content (sha256) and of encoders (`Bundle.encoders_hash`), whether it exists or not."""
        return cls(timeline_folder(content, model), model, content)

    def read(self) -> Saved:
        """What is there; nothing is changed, and no feature is read."""
        return read_saved(self.folder, self.model, self.content)

    @contextmanager
    def writing(self, wait: Callable[[int], bool]) -> Iterator[bool]:
        """Be the one that writes; False if another process is and is not waited for (see `locked`).

        Raises:
            FileError, DiskFullError: nothing can be written there.
        """
        with ExitStack() as stack:
            with _saying(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                held = stack.enter_context(locked(self.folder / LOCK, wait))
            self._number = None
            self._written.clear()
            yield held

    def clean(self, saved: Saved) -> None:
        """Remove what `read` found to be of no use."""
        with _saying(self.folder):
            for path in (*(path for path, _ in saved.broken), *saved.leftover):
                path.unlink(missing_ok=True)

    def describe(self, about: About) -> None:
        """Say what the timeline is of."""
        with _saying(self.folder):
            write_whole(self.folder / ABOUT, [json.dumps(asdict(about), indent=1).encode() + b"\n"])

    def append(
        self, frames: Sequence[FrameFeature], clips: Sequence[ClipFeature], whole: Sequence[ClipFeature]
    ) -> Rows:
        """Save features as one chunk; the same come back mapped, so that memory does not grow.

        Raises:
            FileError, DiskFullError: it cannot be written; what was saved before stays.
        """
        heard = [*clips, *whole]
        arrays: dict[str, NDArray[Any]] = {}
        if frames:
            arrays["frame_index"] = np.array([frame.index for frame in frames], np.int64)
            arrays["frame_time"] = np.array([frame.time for frame in frames], np.float64)
            arrays["frame_features"] = np.stack([frame.features for frame in frames])
        if heard:
            arrays["clip_span"] = np.array([(clip.start, clip.end) for clip in heard], np.float64)
            arrays["clip_features"] = np.stack([clip.features for clip in heard])
            arrays["clip_whole"] = np.array([0] * len(clips) + [1] * len(whole), np.uint8)
        with _saying(self.folder):
            path = self._next()
            write_arrays(path, self._says(), arrays)
            self._written.append(path)
            return rows(open_chunk(path).arrays())

    def undo(self) -> None:
        """Remove the chunks that were written since `writing` began."""
        with _saying(self.folder):
            while self._written:
                self._written.pop().unlink(missing_ok=True)

    def compact(self, most: int) -> None:
        """Merge small chunks into one if there are more than `most`; a crash at any moment loses and doubles nothing.

        Raises:
            FileError, DiskFullError: the merged one cannot be written; all others are still there.
        """
        small = [chunk for chunk in self.read().chunks if chunk.file_bytes < _LARGE]
        if len(small) <= most:
            return
        with _saying(self.folder):
            says = {**self._says(), "replaces": [chunk.path.name for chunk in small]}
            write_merged(self._next(), says, small)
            self._written.clear()
            for chunk in small:
                try:
                    chunk.path.unlink()
                except PermissionError:
                    continue  # still mapped, where that keeps a file: the next writer removes it

    def _says(self) -> dict[str, object]:
        return {"schema": SCHEMA, "model": self.model, "content": self.content}

    def _next(self) -> Path:
        if self._number is None:
            there = (path.stem for path in self.folder.glob("*.safetensors"))
            self._number = max((int(stem) for stem in there if stem.isdecimal()), default=0)
        self._number += 1
        return self.folder / f"{self._number:06d}.safetensors"


@contextmanager
def _saying(folder: Path) -> Iterator[None]:
    """Turns what the system says into our errors."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"{folder}: no space left; free some and run the same command, what is complete is kept"
            ) from error
        raise FileError(
            f"{folder}: cannot be written ({error.strerror}); set VLLAMA_CACHE to a folder that can be"
        ) from error
