"""Prompts that were read once, kept on disk: the first token of a known video comes without reading its media again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..bundle import cache_dir
from ..chunk import open_chunk, write_arrays
from ..errors import FileError
from ..llm.rows import Key, KvPrefix
from .content import CONTENT_DIGITS

_MOST_BYTES = 2_000_000_000  # of all of them: 40 that a 7B read of a clip


def prefixes_dir() -> Path:
    """Where a user's are; the name of one begins with the first 32 digits of its clip's sha256."""
    return cache_dir() / "prefixes"


class PrefixStore:
    """KV prefixes of one clip, model file and settings, a file each; those of others may stand beside them.

    llama.cpp cannot tell whose state it is given, so a file's name has a digest of the model, the settings and every
    position, and its bytes are verified before llama.cpp sees them.
    """

    def __init__(self, folder: Path, fingerprint: str, content: str) -> None:
        """
        Args:
            folder: where the files are; made when the first one is kept.
            fingerprint: whatever a state depends on: the model file's sha256, the type of the cache, the versions.
            content: the clip's sha256, in hexadecimal digits; "" of a live source.
        """
        self._folder = folder
        self._fingerprint = fingerprint
        self._begin = f"{content[:CONTENT_DIGITS]}-" if content else ""

    def find(self, keys: Sequence[Key]) -> KvPrefix | None:
        """The prefix of exactly those positions, if it was kept; a file that is not what was written is removed."""
        path = self._path(keys)
        if not os.access(path, os.R_OK):
            return None
        try:
            data = open_chunk(path).arrays()["state"]
        except OSError:
            return None  # too many open files, for one: it may be whole
        except (FileError, KeyError):
            with suppress(OSError):  # cut or foreign: worth no more than none, the prompt is read again
                path.unlink(missing_ok=True)
            return None
        with suppress(OSError):  # of a folder that is only read; it counts as older there
            os.utime(path)
        return KvPrefix(tuple(keys), data)

    def keep(self, prefix: KvPrefix) -> Path:
        """Write it, whole or not at all; beyond 2 GB those that were not used for longest are removed.

        Raises:
            FileError: it cannot be written.
        """
        path = self._path(prefix.keys)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_arrays(path, {}, {"state": prefix.data})
        except OSError as error:
            raise FileError(f"{path}: cannot be written ({error.strerror}); free space, or set VLLAMA_CACHE") from error
        self._make_room(path)
        return path

    def _make_room(self, newest: Path) -> None:
        """Remove what was not used for longest, also of other models, and what was left half written; not `newest`."""
        known = {}
        for path in self._folder.glob("*.safetensors*"):
            with suppress(OSError):  # another process removed it
                known[path] = path.stat()
        held = sum(status.st_size for status in known.values())
        for path in sorted(known.keys() - {newest}, key=lambda path: known[path].st_mtime_ns):
            if held <= _MOST_BYTES:
                return
            with suppress(OSError):  # Windows removes none that another process holds
                path.unlink(missing_ok=True)
                held -= known[path].st_size

    def _path(self, keys: Sequence[Key]) -> Path:
        named = [key if isinstance(key, int) else [key[0].hex(), key[1]] for key in keys]
        digest = hashlib.sha256(json.dumps([self._fingerprint, named]).encode()).hexdigest()
        return self._folder / f"{self._begin}{digest[:40]}.safetensors"
