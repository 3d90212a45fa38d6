"""The writer of a saved timeline: one process at a time, in files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chunk import Chunk, open_chunk, write_arrays, write_merged
from ..errors import FileError
from ..files import file_errors, write_whole
from ..lock import locked
from ..timeline import ClipFeature, FrameFeature
from .saved import ABOUT, MORE_FILES, SCHEMA, About, Rows, Saved, files, intact, read_saved, rows, timeline_folder

LOCK = "lock"
_PATIENCE_SECONDS, _RETRY_SECONDS = 2.0, 0.02  # while the folder goes and comes
_LARGE = 64 << 20  # bytes of a chunk that is not merged again
MOST_SMALL = 32  # chunks that are smaller: each one that is mapped holds a file open, and a process may have but 256


@dataclass
class Store:
    """The folder of one timeline: written by one process at a time, read by any number."""

    folder: Path
    model: str
    content: str
    _number: int | None = None
    _written: list[Path] = field(default_factory=list)
    _refused: list[Path] = field(default_factory=list)  # of no use, and not removed: still mapped

    @classmethod
    def of(cls, content: str, model: str) -> Store:
        """That of a content (sha256) and of encoders (`Bundle.encoders_hash`), whether it exists or not."""
        return cls(timeline_folder(content, model), model, content)

    def read(self) -> Saved:
        """What is there; nothing is changed, and no feature is read.

        Raises:
            FileError: it cannot be read now.
        """
        return read_saved(self.folder, self.model, self.content)

    @contextmanager
    def writing(self, wait: Callable[[int], bool]) -> Iterator[bool]:
        """Be the one that writes; False if another process is and is not waited for (see `locked`).

        Where the block fails and there is no chunk, the folder goes.

        Raises:
            FileError, DiskFullError: nothing can be written there.
        """
        held = False
        try:
            with ExitStack() as stack:
                with _saying(self.folder):
                    held = self._locked(stack, wait)
                self._number = None
                self._written.clear()
                self._refused.clear()
                try:
                    yield held
                except BaseException:
                    if held:
                        self._leave_if_empty()
                    raise
                with _saying(self.folder):
                    self._remove(())
        except BaseException:
            if held and os.name == "nt":  # where the lock, being open, could not be removed
                self._leave_if_empty()
            raise

    def clean(self, saved: Saved) -> None:
        """Remove what `read` found to be of no use."""
        with _saying(self.folder):
            self._remove([*(path for path, _ in saved.broken), *saved.leftover])

    def describe(self, about: About) -> None:
        """Say what the timeline is of."""
        with _saying(self.folder):
            write_whole(self.folder / ABOUT, [json.dumps(asdict(about), indent=1).encode() + b"\n"])

    def append(
        self, frames: Sequence[FrameFeature], clips: Sequence[ClipFeature], whole: Sequence[ClipFeature]
    ) -> Rows:
        """Save features as one chunk; the same come back mapped, so that memory does not grow.

        Of a picture that shares the features of another one no more is saved than which one that is.

        Raises:
            FileError, DiskFullError: it cannot be written; what was saved before stays.
        """
        heard = [*clips, *whole]
        arrays: dict[str, NDArray[Any]] = {}
        if frames:
            arrays["frame_index"] = np.array([frame.index for frame in frames], np.int64)
            arrays["frame_time"] = np.array([frame.time for frame in frames], np.float64)
            arrays["frame_of"] = np.array([f.index if f.of is None else f.of for f in frames], np.int64)
            arrays["frame_equal"] = np.array([frame.equal for frame in frames], np.uint32)
        own = [frame.features for frame in frames if frame.of is None]
        if own:
            arrays["frame_features"] = np.stack(own)
        if heard:
            arrays["clip_span"] = np.array([(clip.start, clip.end) for clip in heard], np.float64)
            arrays["clip_features"] = np.stack([clip.features for clip in heard])
            arrays["clip_whole"] = np.array([0] * len(clips) + [1] * len(whole), np.uint32)
        with _saying(self.folder):
            path = self._next()
            write_arrays(path, self._says(), arrays)
            self._written.append(path)
            return rows(_opened(path).arrays())

    def settle(self) -> Rows | None:
        """Merge the small chunks among those that were written, once there are many of them.

        Those that `writing` found there are left alone, so that `undo` can still tell what was written. Of a long video
        a feature is written a few times, until its chunk is large.

        Returns:
            What the merged one holds, mapped: keep it instead of what `append` gave. None: there are few.

        Raises:
            FileError, DiskFullError: the merged one cannot be written; all others are still there.
        """
        with _saying(self.folder):
            small = [path for path in self._written if path.stat().st_size < _LARGE]
            if len(small) < MOST_SMALL:
                return None
            path = self._merge([_opened(each) for each in small])
            self._written = [path, *(each for each in self._written if each not in small)]
            self._remove(small)
            return rows(_opened(path).arrays())

    def repair(self, chunk: Chunk) -> None:
        """Write a chunk anew without what is damaged in it.

        Raises:
            FileError, DiskFullError: it cannot be read or written; it is still what it was.
        """
        left = intact(chunk)
        with _saying(self.folder):
            if any(array.size for array in left.values()):
                write_arrays(self._next(), self._says(replaced=[chunk.path]), left)
                self._remove([chunk.path])
            else:
                self._drop([chunk.path])

    def undo(self) -> None:
        """Remove the chunks that were written since `writing` began."""
        with _saying(self.folder):
            self._drop(self._written)
            self._written.clear()

    def compact(self, most: int) -> Rows | None:
        """Merge small chunks into one if there are more than `most`; a crash at any moment loses and doubles nothing.

        Returns:
            What the merged one holds, mapped: keep it instead of what was mapped before. None: there are few.

        Raises:
            FileError, DiskFullError: the merged one cannot be written; all others are still there.
        """
        saved = self.read()
        small = [chunk for chunk in saved.chunks if chunk.file_bytes < _LARGE]
        if len(small) <= most:
            return None
        with _saying(self.folder):
            # What the old ones replaced, and is still there, would count again once they are gone.
            self._refused = list(dict.fromkeys((*self._refused, *saved.leftover)))
            path = self._merge(small)
            self._written.clear()
            old = [chunk.path for chunk in small]
            del saved, small  # which map them
            self._remove(old)
            return rows(_opened(path).arrays())

    def _locked(self, stack: ExitStack, wait: Callable[[int], bool]) -> bool:
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                return stack.enter_context(locked(self.folder / LOCK, wait))
            except FileNotFoundError:
                if time.monotonic() > end:
                    raise
                time.sleep(_RETRY_SECONDS)  # who held it had nothing to leave, and the folder went

    def _leave_if_empty(self) -> None:
        """Remove the folder unless there are chunks in it."""
        with suppress(OSError):  # which would hide the failure at hand
            there = files(self.folder)
            if any(path.suffix == ".safetensors" for path in there):
                return
            for path in sorted(there, key=lambda path: path.name == LOCK):  # the lock last: until then it is ours
                path.unlink()
            self.folder.rmdir()

    def _merge(self, chunks: Sequence[Chunk]) -> Path:
        path = self._next()
        write_merged(path, self._says(replaced=[*(chunk.path for chunk in chunks), *self._refused]), chunks)
        return path

    def _remove(self, paths: Iterable[Path]) -> None:
        """What is mapped stays there where the system wants it so: tried again with the next, as `writing` ends, and by
        the next writer."""
        refused = []
        for path in dict.fromkeys((*self._refused, *paths)):
            try:
                path.unlink(missing_ok=True)
            except PermissionError:
                refused.append(path)
        self._refused = refused

    def _drop(self, paths: Iterable[Path]) -> None:
        """Remove chunks that no other one replaces: for what is still mapped, an empty one does."""
        self._remove(paths)
        if self._refused:
            write_arrays(self._next(), self._says(replaced=self._refused), {})

    def _says(self, replaced: Sequence[Path] = ()) -> dict[str, object]:
        says: dict[str, object] = {"schema": SCHEMA, "model": self.model, "content": self.content}
        return {**says, "replaces": [path.name for path in replaced]} if replaced else says

    def _next(self) -> Path:
        if self._number is None:
            there = (path.stem for path in files(self.folder) if path.suffix == ".safetensors")
            self._number = max((int(stem) for stem in there if stem.isdecimal()), default=0)
        self._number += 1
        return self.folder / f"{self._number:06d}.safetensors"


def _opened(path: Path) -> Chunk:
    """A chunk that this process wrote."""
    try:
        return open_chunk(path)
    except FileError as error:
        raise FileError(f"{path}: {error}, and was written just now; check the disk") from error


def _saying(folder: Path) -> AbstractContextManager[None]:
    kept = "free some and run the same command, what is complete is kept"
    return file_errors(folder, kept, "set VLLAMA_CACHE to a folder that can be written", MORE_FILES)
