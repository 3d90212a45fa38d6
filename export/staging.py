"""A folder that becomes the bundle when everything in it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from vllama.runtime.bundle import engine_name
from vllama.runtime.errors import DiskFullError, FileError
from vllama.runtime.files import file_errors, replace_file, write_whole
from vllama.runtime.lock import locked
from vllama.runtime.manifest import (
    MANIFEST,
    FidelityRow,
    FileRecord,
    Manifest,
    hash_file,
    read_manifest,
    write_manifest,
)

_JOURNAL = "journal.json"


@dataclass(frozen=True)
class StagedPart:
    """A finished part: its files, what making it cost, and a digest of what it was made from."""

    files: dict[str, FileRecord]
    fidelity: tuple[FidelityRow, ...] = ()
    widened: tuple[str, ...] = ()
    key: str = ""


_PARTS = TypeAdapter(dict[str, StagedPart])


class Staging:
    """`OUT.partial`: parts are recorded as they are finished, so that an interrupted export goes on from there."""

    def __init__(self, out: Path) -> None:
        """
        Raises:
            FileError: `out` is there already, or its folder cannot be made or read.
        """
        check_free(out)
        self.out = out
        self.folder = out.with_name(f"{out.name}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{self.folder}: {error.strerror}; choose another --out") from error
        with writing("the export", self.folder):
            self.parts = self._read()
            self._sweep()

    def make(self, name: str, key: str, make: Callable[[], StagedPart]) -> StagedPart:
        """The part of that name, found finished or made now.

        Whatever `make` leaves half-written is removed when it fails; finished parts stay for the next try.

        Raises:
            DiskFullError, FileError: no space left, or the system refuses.
        """
        part = self.parts.get(name)
        if part and part.key == key and self._whole(part):
            return part
        self.parts.pop(name, None)
        try:
            with writing(name, self.folder.parent):
                self._sweep()
                part = replace(make(), key=key)
                self.parts[name] = part
                self._write()
        except BaseException:
            self.parts.pop(name, None)
            self._sweep_quietly()
            raise
        return part

    def need(self, size: int) -> None:
        """Refuse to begin what cannot fit.

        Raises:
            DiskFullError: fewer than `size` bytes are free, beside what is finished.
        """
        finished = sum(record.bytes for part in self.parts.values() for record in part.files.values())
        free = shutil.disk_usage(self.folder).free
        if size - finished > free:
            raise DiskFullError(
                f"{self.folder.parent}: {free / 1e9:.1f} GB free, the export needs about "
                f"{(size - finished) / 1e9:.1f} GB; free some or choose another --out"
            )

    def discard_if_empty(self) -> None:
        """Leave nothing behind when nothing was finished."""
        if not self.parts:
            shutil.rmtree(self.folder, ignore_errors=True)

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest and become the bundle; the journal goes last, so that until then it can be resumed.

        Raises:
            DiskFullError, FileError: it cannot be, or something is at `out` by now; finished parts are kept.
        """
        try:
            with writing(MANIFEST, self.folder.parent):
                write_manifest(self.folder, manifest)
                self._keep({_JOURNAL, MANIFEST, *manifest.files})
        except BaseException:
            self._sweep_quietly()
            raise
        try:
            replace_file(self.folder, self.out)
        except OSError as error:
            what = "remove it" if os.path.lexists(self.out) else f"close what uses {self.folder}"
            raise FileError(f"{self.out}: {error.strerror}; {what} and run the same command") from error
        _tidy(self.out)

    def _sweep(self) -> None:
        """Remove what belongs to no finished part: what a kill or a failure left half-written."""
        self._keep({_JOURNAL, *(name for part in self.parts.values() for name in part.files)})

    def _sweep_quietly(self) -> None:
        with suppress(OSError):  # an error here would hide the first one; the next try sweeps again
            self._sweep()

    def _keep(self, names: set[str]) -> None:
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in names:
                path.unlink()

    def _whole(self, part: StagedPart) -> bool:
        return all(
            os.path.isfile(self.folder / name) and hash_file(self.folder / name) == record
            for name, record in part.files.items()
        )

    def _read(self) -> dict[str, StagedPart]:
        try:
            return _PARTS.validate_json((self.folder / _JOURNAL).read_bytes())
        except (FileNotFoundError, ValidationError):
            return {}  # nothing finished, or a journal cut by a crash: the parts are made again

    def _write(self) -> None:
        write_whole(self.folder / _JOURNAL, [_PARTS.dump_json(self.parts)])


def check_free(out: Path) -> None:
    """Raise FileError where something is that a bundle would have to replace, or the root of a disk."""
    _resolved(out)
    if os.path.lexists(out):
        raise FileError(f"{out}: already there; remove it or choose another --out")


def _resolved(out: Path) -> Path:
    """The folder it is: "." has no name, and a link is the folder that it leads to."""
    found = Path(os.path.realpath(out))
    if not found.name:
        raise FileError(f"{out}: the root of a disk cannot be a bundle; choose another --out")
    return found


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Be the only process that exports to `out`.

    Raises:
        FileError: another one does, or its folder cannot be made.
    """
    out = _resolved(out)
    lock = out.with_name(f"{out.name}.lock")
    holders: list[int] = []

    def wait(process: int) -> bool:
        holders.append(process)
        return False

    with ExitStack() as stack:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(locked(lock, wait, remove=True))
        except OSError as error:
            raise FileError(f"{lock}: {error.strerror}; choose another --out") from error
        if not held:
            raise FileError(f"{out}: process {holders[0]} exports to it; wait for that, or choose another --out")
        _tidy(out)
        yield


def _tidy(out: Path) -> None:
    """Remove what a kill left in a bundle, its journal and half of a file; from another folder nothing."""
    with suppress(OSError, FileError):  # neither harms, and the next export tries again
        files = read_manifest(out).files
        own = {MANIFEST, *files, *(engine_name(name.removesuffix(".onnx")) for name in files)}
        (out / _JOURNAL).unlink(missing_ok=True)
        for path in out.glob("*.*.part"):
            if path.name.removesuffix(".part").rpartition(".")[0] in own:
                path.unlink(missing_ok=True)


@contextmanager
def writing(what: str, place: Path) -> Iterator[None]:
    """Turns what the system says into our errors."""
    again = "run the same command, finished parts are kept"
    advice = f"close what uses it, check its permissions and {again}"
    with file_errors(what, f"free some and {again}", advice, place=place):
        yield


def part_key(*facts: object) -> str:
    """A digest of everything a part was made from."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def record_files(folder: Path, names: Sequence[str]) -> dict[str, FileRecord]:
    """Sizes and hashes of what a part wrote."""
    return {name: hash_file(folder / name) for name in names if os.path.isfile(folder / name)}
