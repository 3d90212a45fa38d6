"""A safetensors file of features: written whole or not at all, mapped, and every byte of it under a checksum.

Tensors named KIND_features are mapped and may be large; each of their rows has a checksum in KIND_crc32, so that a
damaged one costs only itself. Everything else is read at once and is under one checksum in the header.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import FileError
from .files import write_whole

_TYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I64": np.int64, "U32": np.uint32, "U8": np.uint8}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}
_HEADER_LIMIT = 1 << 20
_BLOCK = 1 << 20
_FEATURES, _SUMS = "_features", "_crc32"
_REMEMBERED = 4096  # files whose rows were checked
_UNREADABLE = (errno.EIO, errno.EISDIR, errno.ELOOP)  # what the system says of a file itself, and not of the moment
_State = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """One tensor of a chunk: its type by safetensors' name, its shape, and where its bytes are in the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(_TYPES[self.dtype]).itemsize


@dataclass(frozen=True, eq=False)
class Chunk:
    """An open file. about: what its writer said of it. data: all of its bytes, mapped: read when they are used.

    small: the bytes of all tensors but features, read at once: to touch one page of a mapping makes its neighbours
    resident too, for every chunk of a long video. state: changes with the file.
    """

    path: Path
    about: dict[str, Any]
    parts: dict[str, Part]
    data: NDArray[np.uint8] = field(repr=False)
    small: dict[str, bytes] = field(repr=False)
    state: _State = (0, 0, 0)

    @property
    def file_bytes(self) -> int:
        """The size of the file."""
        return len(self.data)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All tensors, not writable; the large ones still mapped."""
        return {
            name: self._bytes(name, part).view(_TYPES[part.dtype]).reshape(part.shape)
            for name, part in self.parts.items()
        }

    def damaged(self, kind: str) -> tuple[int, ...]:
        """The rows of its features that are no longer what was written: found once for each state of the file.

        Raises:
            OSError: it cannot be read now.
        """
        part, sums = self.parts.get(kind + _FEATURES), self.small.get(kind + _SUMS)
        return _damaged(self.path, self.state, part, sums) if part and sums else ()

    def _bytes(self, name: str, part: Part) -> NDArray[np.uint8]:
        if name in self.small:
            return np.frombuffer(self.small[name], np.uint8)
        return np.asarray(self.data[part.offset : part.offset + part.size])

    def blocks(self, name: str) -> Iterator[bytes]:
        """The bytes of a tensor, piece by piece, without mapping them."""
        part = self.parts[name]
        with self.path.open("rb") as file:
            file.seek(part.offset)
            for done in range(0, part.size, _BLOCK):
                yield file.read(min(_BLOCK, part.size - done))


def open_chunk(path: Path) -> Chunk:
    """Read the header, make sure that the file is as long as it says, and map it.

    Raises:
        FileError: it is no such file, was cut, or is damaged elsewhere than in its features; the message has only the
            reason.
        FileNotFoundError: it is not there.
        OSError: it cannot be read now, which says nothing of what is in it: too many files are open, no permission, ...
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_HEADER_LIMIT, size - 8):
                raise FileError("cut in its header, or no safetensors file")
            header = json.loads(file.read(length))
            notes = header.pop("__metadata__", {})
            says = notes.get("vllama", "{}")
            about = json.loads(says)
            parts = {name: _part(row, 8 + length) for name, row in header.items()}
            end = max((part.offset + part.size for part in parts.values()), default=8 + length)
            if end != size:
                raise FileError(f"has {size:,} bytes of {end:,}")
            small = {name: _read_at(file, part) for name, part in parts.items() if not name.endswith(_FEATURES)}
            data = np.memmap(file, np.uint8, "r")
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        raise FileError(f"cannot be read ({error.strerror})") from error
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise FileError(f"no safetensors file of features ({error})") from error
    if not isinstance(about, dict):
        raise FileError("does not say what it is")
    if "crc32" not in notes:
        raise FileError("was made by another version")
    if notes["crc32"] != _header_sum(says, header, small.values()):
        raise FileError("is damaged")
    return Chunk(path, about, parts, data, small, (status.st_ino, size, status.st_mtime_ns))


def write_arrays(path: Path, about: Mapping[str, object], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write one file; it is there complete or not at all, also after a crash.

    Raises:
        OSError: it cannot be written.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array.size}
    for name in [name for name in whole if name.endswith(_FEATURES)]:
        whole[name.removesuffix(_FEATURES) + _SUMS] = np.array([zlib.crc32(row) for row in whole[name]], np.uint32)
    shapes = {name: (_NAMES[array.dtype], array.shape) for name, array in whole.items()}
    small = {name: array.tobytes() for name, array in whole.items() if not name.endswith(_FEATURES)}
    _write(path, about, shapes, small, (array.data.cast("B") for name, array in whole.items() if name not in small))


def write_merged(path: Path, about: Mapping[str, object], chunks: Sequence[Chunk]) -> None:
    """Write the rows of several chunks, in their order, as one; nothing of them is held in memory.

    Raises:
        OSError: it cannot be written.
    """
    names = list(dict.fromkeys(name for chunk in chunks for name in chunk.parts))
    holders = {name: [chunk for chunk in chunks if name in chunk.parts] for name in names}
    shapes = {
        name: (
            found[0].parts[name].dtype,
            (sum(chunk.parts[name].shape[0] for chunk in found), *found[0].parts[name].shape[1:]),
        )
        for name, found in holders.items()
    }
    small = {
        name: b"".join(chunk.small[name] for chunk in holders[name]) for name in names if not name.endswith(_FEATURES)
    }
    large = (name for name in names if name not in small)
    _write(
        path, about, shapes, small, (block for name in large for chunk in holders[name] for block in chunk.blocks(name))
    )


def _write(
    path: Path,
    about: Mapping[str, object],
    shapes: Mapping[str, tuple[str, tuple[int, ...]]],
    small: Mapping[str, bytes],
    blocks: Iterable[bytes | memoryview],
) -> None:
    """small: the bytes of all tensors but features, which come first. blocks: those of the features, in their order."""
    header: dict[str, object] = {}
    offset = 0
    for name in (*small, *(name for name in shapes if name not in small)):
        dtype, shape = shapes[name]
        end = offset + Part(dtype, shape, 0).size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (offset, end)}
        offset = end
    says = json.dumps(about)
    notes = {"vllama": says, "crc32": _header_sum(says, header, small.values())}
    text = json.dumps({"__metadata__": notes, **header}).encode()
    text += b" " * (-len(text) % 8)
    write_whole(path, _chain(text, small.values(), blocks))


def _chain(text: bytes, small: Iterable[bytes], blocks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    yield struct.pack("<Q", len(text))
    yield text
    yield from small
    yield from blocks


def _header_sum(says: str, header: Mapping[str, object], small: Iterable[bytes]) -> str:
    """Of what the writer said, of where the tensors are, and of all tensors but features."""
    total = zlib.crc32(says.encode())
    for text in (json.dumps(header).encode(), *small):
        total = zlib.crc32(text, total)
    return f"{total:08x}"


@functools.lru_cache(_REMEMBERED)
def _damaged(path: Path, state: _State, part: Part, sums: bytes) -> tuple[int, ...]:
    """Read, not mapped: what is read this way does not stay in this process."""
    known = np.frombuffer(sums, np.uint32)
    size = part.size // len(known)
    try:
        with path.open("rb") as file:
            sums_now = (_sum_at(file, part.offset + row * size, size) for row in range(len(known)))
            return tuple(row for row, (now, was) in enumerate(zip(sums_now, known.tolist(), strict=True)) if now != was)
    except FileNotFoundError:
        return ()  # merged into another file just now, which will be read next


def _sum_at(file: BinaryIO, start: int, size: int) -> int | None:
    """None: the disk cannot read it, which costs no other row."""
    try:
        file.seek(start)
        return zlib.crc32(file.read(size))
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None


def _read_at(file: BinaryIO, part: Part) -> bytes:
    file.seek(part.offset)
    return file.read(part.size)


def _part(row: dict[str, Any], base: int) -> Part:
    if row["dtype"] not in _TYPES:
        raise ValueError(f"type {row['dtype']}")
    first, last = row["data_offsets"]
    part = Part(str(row["dtype"]), tuple(int(n) for n in row["shape"]), base + int(first))
    if not 0 <= first <= last or part.size != last - first:
        raise ValueError("shape and size differ")
    return part
