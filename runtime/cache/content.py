"""Which file a clip is: its content, not its name, remembered so that it is not hashed at every question."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from ..bundle import cache_dir
from ..errors import MediaError, MissingFileError
from ..files import write_whole
from ..manifest import hash_file

CONTENT_DIGITS = 32  # of a sha256, that the names of what is kept of a clip begin with
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:[/\\]", re.IGNORECASE)  # which a drive's one letter is not
_SETTLED_NS = 2_000_000_000  # a file changed later than that before it was hashed may change again unseen


@dataclass(frozen=True)
class Content:
    """What a file held when it was looked at: sha256 of its bytes, how many, and when they were last changed.

    hashed_ns: when it was hashed; 0: it is known from before.
    """

    path: Path
    sha256: str
    bytes: int
    mtime_ns: int
    hashed_ns: int = field(default=0, compare=False)

    def check(self) -> None:
        """Make sure that it is still so, as far as size and time tell.

        Raises:
            MediaError: it is not.
        """
        if _stamp(self.path) != (self.bytes, self.mtime_ns):
            raise MediaError(f"{self.path}: was changed while it was read; run this again when it is complete")


def identify(path: Path) -> Content:
    """The content of a file; hashed only if path, size or time of the last change are not those of `remember`.

    Raises:
        MediaError: it is no file, cannot be read, or is changed while it is hashed.
    """
    size, mtime_ns = _stamp(path)
    known = _recall(_memory(path))
    if known is not None and (known.bytes, known.mtime_ns) == (size, mtime_ns):
        return Content(path, known.sha256, size, mtime_ns)
    now = time.time_ns()
    try:
        content = Content(path, hash_file(path).sha256, size, mtime_ns, now)
    except MissingFileError as error:
        raise MediaError(str(error)) from error
    content.check()
    return content


def remember(content: Content) -> None:
    """Write down what a file holds, with its path, so that it need not be hashed again."""
    if content.hashed_ns - content.mtime_ns <= _SETTLED_NS:  # also where that is known
        return
    row = {
        "path": str(content.path.resolve()), "sha256": content.sha256,
        "bytes": content.bytes, "mtime_ns": content.mtime_ns,
    }  # fmt: skip
    memory = _memory(content.path)
    with suppress(OSError):  # a cache that cannot be written costs a hash at the next question, nothing else
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_whole(memory, [json.dumps(row).encode()])


def recall(path: Path) -> str | None:
    """The sha256 that a path had when it was last hashed, also if it is no longer there."""
    return recorded(_memory(path))


def contents_dir() -> Path:
    """Where it is written down which path had which content, a file each."""
    return cache_dir() / "contents"


def recorded(record: Path) -> str | None:
    """The sha256 that a file of `contents_dir` tells; None: it is of no use."""
    known = _recall(record)
    return known.sha256 if known else None


def is_unchanged(path: Path, size: int, mtime_ns: int) -> bool | None:
    """Whether a file still has that size and time; None if it is not there."""
    try:
        return _stamp(path) == (size, mtime_ns)
    except MediaError:
        return None


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except ValueError as error:  # a null character
        raise MediaError(f"{str(path)!r}: {error}; give a video, a sound file or a picture") from error
    except OSError as error:
        raise MediaError(
            _why_none(path) or f"{path}: {error.strerror}; give a video, a sound file or a picture"
        ) from error
    if S_ISDIR(stat.st_mode):
        raise MediaError(f"{path}: is a folder; give a file of it, or encode all in it with `vllama index FOLDER`")
    if not S_ISREG(stat.st_mode):
        raise MediaError(f"{path}: is no file; give a video, a sound file or a picture")
    return stat.st_size, stat.st_mtime_ns


def _why_none(path: Path) -> str:
    """Of what people give in place of a file; "" where that is not plain."""
    if path == Path("-"):
        return "-: stdin cannot be a clip, which is read more than once; save it, and give the file"
    if _ADDRESS.match(str(path)):
        address = path.as_posix().replace(":/", "://", 1)
        return f"{address}: is an address; download it first, or follow it with `vllama chat --webcam ADDRESS`"
    return ""


def _memory(path: Path) -> Path:
    real = os.path.realpath(path)  # `resolve` raises where links lead in a circle
    return contents_dir() / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"


def _recall(memory: Path) -> Content | None:
    try:
        known = json.loads(memory.read_text("utf-8"))
        return Content(Path(known["path"]), str(known["sha256"]), int(known["bytes"]), int(known["mtime_ns"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never hashed here
