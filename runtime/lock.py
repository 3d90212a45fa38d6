"""One writer per folder, across processes: a lock that the system gives back when its holder dies."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_POLL_SECONDS = 0.2
_FAR = 1 << 30  # the byte that is locked; the holder's number stands before it and stays readable
_WINDOWS = os.name == "nt"

if sys.platform == "win32":
    import msvcrt

    def _take(handle: int) -> None:
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

    def _give(handle: int) -> None:
        os.lseek(handle, _FAR, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _take(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _give(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)


@contextmanager
def locked(path: Path, wait: Callable[[int], bool], *, remove: bool = False) -> Iterator[bool]:
    """Hold the lock of that file; gives False instead if another process has it and is not waited for.

    Args:
        path: the file, made if needed; its folder exists. wait: asked once with the holder's process number (0:
            unknown) when another holds it; True waits. remove: the file goes with the lock, as far as it can be.

    Raises:
        OSError: the file cannot be made or locked.
    """
    handle = _opened(path, wait)
    try:
        if handle is not None:
            os.ftruncate(handle, 0)
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, str(os.getpid()).encode())
        yield handle is not None
    finally:
        if handle is not None:
            if remove and not _WINDOWS:  # while it is locked: afterwards it may be another's
                _remove(path)
            _let_go(handle)
            if remove and _WINDOWS:  # where an open file cannot be removed, nor one that another has open by then
                _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):  # if it stays, it is locked again next time
        path.unlink()


def _opened(path: Path, wait: Callable[[int], bool]) -> int | None:
    waiting = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            taken = _is_taken(handle)
            holder = 0 if taken else _holder(handle)
        except BaseException:
            os.close(handle)
            raise
        if taken and _is_at(handle, path):
            return handle
        if taken:
            _let_go(handle)  # its holder removed the file just now: it locks nothing
            continue
        os.close(handle)
        if not waiting and not wait(holder):
            return None
        waiting = True
        time.sleep(_POLL_SECONDS)


def _is_taken(handle: int) -> bool:
    try:
        _take(handle)
    except (BlockingIOError, PermissionError):
        return False  # another holds it
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _let_go(handle: int) -> None:
    """Closing alone gives a lock back too, but on Windows some time later."""
    try:
        _give(handle)
    finally:
        os.close(handle)


def _holder(handle: int) -> int:
    os.lseek(handle, 0, os.SEEK_SET)
    text = os.read(handle, 20)
    return int(text) if text.isdigit() else 0
