"""New files that a person asked for: what was there stays, and nothing is left of what does not fit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from vllama.runtime.errors import DiskFullError, FileError
from vllama.runtime.files import is_disk_full


def write_new(path: Path, data: bytes, wanted: str) -> None:
    """Write one whole, or not at all.

    Args:
        wanted: what to give where this one cannot be written: 'a new .png'.

    Raises:
        DiskFullError: no space left.
        FileError: it is there already, or cannot be written.
    """
    with _saying(path, wanted, "write it again"):
        _create(path, data)


class JsonLines:
    """A new file of one JSON object a line; each is in it whole or not at all. It is made with the first one.

    Raises:
        FileError, DiskFullError: it is there already, or cannot be made; found before anything is done for its lines.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun = False
        with self._saying():
            path.open("xb").close()
            path.unlink()

    def append(self, *rows: Mapping[str, object]) -> None:
        """Write these, all of them or none.

        Raises:
            FileError, DiskFullError: they cannot be written.
        """
        data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode("ascii")
        with self._saying():
            (_extend if self._begun else _create)(self._path, data)
        self._begun = True

    def _saying(self) -> AbstractContextManager[None]:
        return _saying(self._path, "a new file", "start a new file, this answer and what follows are not in it")


def _create(path: Path, data: bytes) -> None:
    file = path.open("xb")
    try:
        with file:
            file.write(data)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _extend(path: Path, data: bytes) -> None:
    with path.open("r+b", buffering=0) as file:
        size, written = file.seek(0, os.SEEK_END), 0
        try:
            while written < len(data):
                written += file.write(data[written:])
        except BaseException:
            file.truncate(size)
            raise


@contextmanager
def _saying(path: Path, wanted: str, then: str) -> Iterator[None]:
    """Turns what the system says into our errors; then: what to do once there is space."""
    try:
        yield
    except FileExistsError as error:
        raise FileError(f"{path}: is there already; give {wanted}") from error
    except (OSError, ValueError) as error:  # a name with a zero byte is the second
        if isinstance(error, OSError) and is_disk_full(error):
            raise DiskFullError(f"{path}: no space left; free some and {then}") from error
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"{path}: cannot be written ({reason}); give {wanted} in a folder that is there") from error
