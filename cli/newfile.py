"""A new file that a person asked for: whole, or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

from vllama.runtime.errors import DiskFullError, FileError


def write_new(path: Path, data: bytes, wanted: str) -> None:
    """Write it; what was there stays, and nothing is left of what does not fit.

    Args:
        wanted: what to give where this one cannot be written: 'a new .png'.

    Raises:
        DiskFullError: no space left.
        FileError: it is there already, or cannot be written.
    """
    try:
        file = path.open("xb")
        try:
            with file:
                file.write(data)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"{path}: no space left; free some and write it again") from error
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"{path}: {reason}; give {wanted} in a folder that is there") from error
