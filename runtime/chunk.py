"""A safetensors file of features: written whole or not at all, read by mapping it."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import FileError

_TYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "I64": np.int64, "U8": np.uint8}
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items()}
_HEADER_LIMIT = 1 << 20
_BLOCK = 1 << 20
_SMALL = 1 << 12  # bytes


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


@dataclass(frozen=True)
class Chunk:
    """An open file. about: what its writer said of it. data: all of its bytes, mapped: read when they are used.

    small: the bytes of small tensors, read at once: to touch one page of a mapping makes its neighbours resident too,
    for every chunk of a long video.
    """

    path: Path
    about: dict[str, Any]
    parts: dict[str, Part]
    data: NDArray[np.uint8] = field(repr=False)
    small: dict[str, bytes] = field(repr=False)

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
        FileError: it is no such file, or was cut; the message has only the reason.
        FileNotFoundError: it is not there.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_HEADER_LIMIT, size - 8):
                raise FileError("cut in its header, or no safetensors file")
            header = json.loads(file.read(length))
            about = json.loads(header.pop("__metadata__", {}).get("vllama", "{}"))
            parts = {name: _part(row, 8 + length) for name, row in header.items()}
            small = {name: _read_at(file, part) for name, part in parts.items() if part.size <= _SMALL}
            data = np.memmap(file, np.uint8, "r")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise FileError(f"no safetensors file of features ({error})") from error
    end = max((part.offset + part.size for part in parts.values()), default=8 + length)
    if end != len(data):
        raise FileError(f"has {len(data):,} bytes of {end:,}")
    if not isinstance(about, dict):
        raise FileError("does not say what it is")
    return Chunk(path, about, parts, data, small)


def write_arrays(path: Path, about: Mapping[str, object], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write one file; it is there complete or not at all, also after a crash.

    Raises:
        OSError: it cannot be written.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array.size}
    shapes = {name: (_NAMES[array.dtype], array.shape) for name, array in whole.items()}
    _write(path, about, shapes, (array.data.cast("B") for array in whole.values()))


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
    _write(path, about, shapes, (block for name in names for chunk in holders[name] for block in chunk.blocks(name)))


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
        os.replace(part, path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _write(
    path: Path,
    about: Mapping[str, object],
    shapes: Mapping[str, tuple[str, tuple[int, ...]]],
    blocks: Iterable[bytes | memoryview],
) -> None:
    header: dict[str, object] = {"__metadata__": {"vllama": json.dumps(about)}}
    offset = 0
    for name, (dtype, shape) in shapes.items():
        end = offset + Part(dtype, shape, 0).size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write_whole(path, _chain(text, blocks))


def _chain(text: bytes, blocks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    yield struct.pack("<Q", len(text))
    yield text
    yield from blocks


def _read_at(file: BinaryIO, part: Part) -> bytes:
    file.seek(part.offset)
    return file.read(part.size)


def _part(row: dict[str, Any], base: int) -> Part:
    if row["dtype"] not in _TYPES:
        raise ValueError(f"type {row['dtype']}")
    first, last = row["data_offsets"]
    part = Part(str(row["dtype"]), tuple(int(n) for n in row["shape"]), base + int(first))
    if part.size != last - first:
        raise ValueError("shape and size differ")
    return part


def _sync_folder(folder: Path) -> None:
    """Make the new name durable too, where folders can be synced."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
