"""Files that are there whole or not at all, and what the system says where one cannot be written."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import DiskFullError, FileError

_WINDOWS = os.name == "nt"
_PATIENCE_SECONDS, _RETRY_SECONDS = 2.0, 0.05


def write_whole(path: Path, blocks: Iterable[bytes | memoryview]) -> None:
    """A file of another name that becomes `path` when all of it is on the disk, and vanishes otherwise.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            for block in blocks:
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        replace_file(part, path)
    except BaseException:
        with suppress(OSError):  # an error here would hide the first one
            part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def replace_file(source: Path, target: Path) -> None:
    """`os.replace` of a file or a folder; tried again for a while on Windows, where any other program that has it open
    just now, as what looks for viruses or indexes files does, makes it fail.

    Raises:
        OSError: it cannot be done.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if not _WINDOWS or time.monotonic() >= until:
                raise
        time.sleep(_RETRY_SECONDS)


def check_permission(path: Path) -> None:
    """What may not be looked at, or into, must not be taken for what is not there, or holds nothing.

    Raises:
        FileError: the system does not let it be looked at or, a folder, into.
    """
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            os.listdir(path)
    except PermissionError as error:
        raise FileError(f"{path}: {error.strerror}; check its permissions") from error
    except (OSError, ValueError):
        return  # it is not there, or cannot be: whoever wants it says so


def is_disk_full(error: OSError) -> bool:
    """Whether there is no space left, on the disk or of what the user may have of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def file_errors(
    what: Path | str, when_full: str, otherwise: str, with_many_open: str = "", place: Path | None = None
) -> Iterator[None]:
    """Turns what the system refuses inside into our errors.

    Args:
        what: what is written, for the message; place: where, if it does not say so. when_full, with_many_open,
            otherwise: what to do.

    Raises:
        DiskFullError, FileError: it was refused.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # of whoever is told of the progress
    except OSError as error:
        if is_disk_full(error):
            where = f" in {place}" if place else ""
            raise DiskFullError(f"{what}: no space left{where}; {when_full}") from error
        too_many = error.errno in (errno.EMFILE, errno.ENFILE)
        advice = (too_many and with_many_open) or otherwise
        raise FileError(f"{error.filename or what}: {error.strerror or error}; {advice}") from error


def _sync_folder(folder: Path) -> None:
    """Make the new name durable too, where folders can be synced."""
    if _WINDOWS:
        return
    with suppress(OSError):  # the file is there, and some file systems sync no folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
