"""All timelines that are saved: what each is of, whether it is whole, and how to be rid of it."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from ..errors import FileError, SpecError
from ..files import replace_file
from ..lock import locked
from .content import CONTENT_DIGITS, contents_dir, identify, is_unchanged, recall, recorded
from .prefixes import prefixes_dir
from .saved import ABOUT, About, files, read_about, read_saved, reading, timelines_dir
from .store import LOCK

_SHORT_ID = 4  # characters of an id that say which one is meant


@dataclass(frozen=True)
class Entry:
    """One saved timeline. problem: why it, or a part of it, is of no use; "" if all of it is. chunks: of features.

    shared: how many of the frames have the features of another one.
    """

    id: str
    folder: Path
    bytes: int
    about: About | None = None
    frames: int = 0
    shared: int = 0
    clips: int = 0
    chunks: int = 0
    problem: str = ""

    @property
    def state(self) -> str:
        """In a few words."""
        if self.problem:
            return f"broken: {self.problem}"
        assert self.about is not None
        if self.about.wanted_fps > self.about.fps:
            return "unfinished"
        return "indexed" if self.about.fps > 0 else "asked about"

    @property
    def source(self) -> str:
        """What has become of the file: "there", "changed" or "gone"; "" if that is not known."""
        if self.about is None:
            return ""
        unchanged = is_unchanged(Path(self.about.path), self.about.file_bytes, self.about.mtime_ns)
        return "gone" if unchanged is None else "there" if unchanged else "changed"


def list_entries() -> list[Entry]:
    """Every saved timeline, also the broken ones, in order of their ids.

    Raises:
        FileError: the folder of all of them cannot be read, or is none.
    """
    folder = timelines_dir()
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    if not os.path.isdir(there):
        raise FileError(f"{there}: is no folder; set VLLAMA_CACHE to one")
    with reading(folder):
        entries = [_entry(path) for path in files(folder)]
    return [entry for entry in entries if entry is not None]


def saved_bytes(folder: Path) -> int:
    """Of all files of one timeline; one that vanishes meanwhile, renamed or merged by its writer, counts for nothing.

    Raises:
        FileError: the folder cannot be read.
    """
    total = 0
    with reading(folder):
        for path in files(folder):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def find_entries(what: str) -> list[Entry]:
    """Those of an id, of its first characters, or of a file (one for each model it was encoded with).

    Raises:
        SpecError: there is none.
    """
    entries = list_entries()
    found = [entry for entry in entries if entry.id == what]
    if not found and len(what) >= _SHORT_ID:
        found = [entry for entry in entries if entry.id.startswith(what)]
    path = Path(what)
    if not found and (content := identify(path).sha256 if os.path.isfile(path) else recall(path)):
        found = [entry for entry in entries if entry.id.partition("-")[0] == content[:CONTENT_DIGITS]]
    if not found:
        found = [entry for entry in entries if entry.about and entry.about.path == os.path.realpath(path)]
    if not found:
        raise SpecError(f"no timeline of {what!r} is saved; `vllama index ls` lists those that are")
    return found


def remove_entry(entry: Entry) -> None:
    """Delete a saved timeline, whole or not at all, after what `remove_traces` removes of its clip.

    Raises:
        FileError: another process is writing it, or uses it and the system keeps what is used; or it cannot be deleted.
    """
    content = entry.id.partition("-")[0]
    try:
        if not os.path.isdir(entry.folder):
            remove_traces(content)
            entry.folder.unlink()
            return
        with locked(entry.folder / LOCK, lambda process: False) as held:
            if not held:
                raise FileError(f"{entry.id}: is being indexed by another process; stop that, or wait for it")
            remove_traces(content)
            for path in _set_aside(entry.folder):
                path.unlink()
        shutil.rmtree(entry.folder)
    except OSError as error:
        raise _undeletable(entry.folder, error) from error


def remove_traces(content: str | None = None) -> None:
    """Delete what is kept of clips beside their timelines: which path they had, and what a language model read of them.

    Args:
        content: what a clip's id begins with, the first `CONTENT_DIGITS` of its sha256; None: of all clips.

    Raises:
        FileError: one cannot be deleted.
    """
    for path in _traces(content):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _undeletable(path, error) from error


def remove_traces_unless_saved(content: str) -> None:
    """What `remove_traces` does, where nothing else of the clip is kept, or being kept by another process.

    Raises: as `remove_traces`.
    """
    kept = (*files(timelines_dir()), *files(prefixes_dir()))
    if not any(path.name.partition("-")[0] == content[:CONTENT_DIGITS] for path in kept):
        remove_traces(content[:CONTENT_DIGITS])


def _traces(content: str | None) -> list[Path]:
    records, prefixes = contents_dir(), prefixes_dir()
    with reading(records):
        found = [path for path in files(records) if content in (None, (recorded(path) or "")[:CONTENT_DIGITS])]
    with reading(prefixes):
        return [*found, *(path for path in files(prefixes) if content in (None, path.name.partition("-")[0]))]


def _undeletable(path: Path, error: OSError) -> FileError:
    return FileError(f"{path}: cannot be deleted ({error.strerror}); end what uses it, or check its permissions")


def _set_aside(folder: Path) -> list[Path]:
    """Rename all files but the lock to what is nothing by itself, or none: Windows refuses it where one is in use."""
    for path in folder.glob("*.part"):
        path.unlink()  # half a file, which would be in the way
    there = [path for path in folder.iterdir() if path.name != LOCK]
    aside: list[Path] = []
    try:
        for path in sorted(there, key=lambda path: path.name != ABOUT):
            replace_file(path, path.with_name(f"{path.name}.part"))
            aside.append(path)
    except BaseException:
        for path in reversed(aside):
            replace_file(path.with_name(f"{path.name}.part"), path)
        raise
    return [path.with_name(f"{path.name}.part") for path in aside]


def _entry(path: Path) -> Entry | None:
    """None: it was removed just now."""
    size = 0
    try:
        with reading(path):
            if not path.is_dir():
                return Entry(path.name, path, path.stat().st_size, problem="was made by another version")
        size = saved_bytes(path)
        about = read_about(path)
        saved = read_saved(path, about.model, about.content)
    except FileNotFoundError:
        return None
    except FileError as error:
        return Entry(path.name, path, size, problem=str(error)) if os.path.lexists(path) else None
    if saved.broken:
        problem = f"{saved.broken[0][0].name} {saved.broken[0][1]}"
    else:
        problem = "" if saved.is_whole else "files of features are missing"
    return Entry(path.name, path, size, about, saved.frames, saved.shared, saved.clips, len(saved.chunks), problem)
