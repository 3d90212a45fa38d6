from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vllama.runtime.chunk import Part, _damaged, open_chunk, write_arrays, write_merged
from vllama.runtime.errors import FileError


def _write(path: Path, first: int, count: int) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {
        "frame_index": np.arange(first, first + count),
        "frame_features": np.random.default_rng(first).random((count, 2, 3)).astype(np.float16),
    }
    write_arrays(path, {"content": "c"}, arrays)
    return arrays


def test_file_is_what_safetensors_reads_and_maps_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    arrays = _write(path, 5, 4)
    chunk = open_chunk(path)
    assert chunk.about == {"content": "c"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(load_file(path)[name], array)
        np.testing.assert_array_equal(chunk.arrays()[name], array)
    assert not chunk.arrays()["frame_features"].flags.writeable
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_features_are_not_read_before_they_are_used(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_arrays(path, {}, {"frame_features": np.zeros((64, 32, 8192), np.float32)})  # 64 MiB

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    if sys.platform != "linux":
        pytest.skip("resident memory is read from /proc")
    before = resident()
    array = open_chunk(path).arrays()["frame_features"]
    assert resident() - before < 4 << 20
    array.sum()
    assert resident() - before > 32 << 20  # so the measurement sees what it should


def test_merged_rows_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    first, second = _write(tmp_path / "a", 0, 3), _write(tmp_path / "b", 7, 2)
    write_arrays(tmp_path / "c", {}, {"clip_features": np.ones((1, 4), np.float32)})
    write_merged(tmp_path / "all", {"x": 1}, [open_chunk(tmp_path / name) for name in "abc"])
    merged = open_chunk(tmp_path / "all").arrays()
    for name in first:
        np.testing.assert_array_equal(merged[name], np.concatenate((first[name], second[name])))
    assert merged["clip_features"].shape == (1, 4)


@pytest.mark.parametrize("length", [0, 4, 8, 40, -1])
def test_cut_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a"
    _write(path, 0, 4)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(FileError):
        open_chunk(path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"{", b"\xff\xfe", b'{"a": 1}', b'{"__metadata__": {"vllama": "[]"}}',
        b'{"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1180591620717411303424], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [1180591620717411303424, 1180591620717411303428]}}',
    ],
)  # fmt: skip
def test_header_that_is_none_of_ours_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(FileError, match=r"^(no safetensors file of features|has [\d,]+ bytes of|does not say what)"):
        open_chunk(path)


def test_more_than_the_header_tells_of_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    _write(path, 0, 4)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(FileError, match=rf"^has {size + 1} bytes of {size}$"):
        open_chunk(path)


def test_header_of_absurd_length_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(FileError, match="header"):
        open_chunk(path)


def _flip(path: Path, place: int) -> None:
    """Two writes may fall into one tick of the clock of the disk, and what is known of a file goes by its time."""
    later = path.stat().st_mtime_ns + 10**9
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 4]))
    os.utime(path, ns=(later, later))


def test_damaged_feature_is_told_by_its_row_also_after_merging(tmp_path: Path) -> None:
    _write(tmp_path / "a", 0, 4)
    _write(tmp_path / "b", 4, 3)
    assert open_chunk(tmp_path / "b").damaged("frame") == ()
    part = open_chunk(tmp_path / "b").parts["frame_features"]
    _flip(tmp_path / "b", part.offset + part.size - 1)
    assert open_chunk(tmp_path / "b").damaged("frame") == (2,)
    write_merged(tmp_path / "all", {}, [open_chunk(tmp_path / name) for name in "ab"])
    assert open_chunk(tmp_path / "all").damaged("frame") == (6,)
    assert open_chunk(tmp_path / "all").damaged("clip") == ()


def test_damage_anywhere_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_arrays(path, {"content": "c"}, {"frame_index": np.arange(3), "clip_span": np.ones((2, 2))})
    whole = path.read_bytes()
    for place in range(len(whole)):
        _flip(path, place)
        try:
            open_chunk(path)
        except FileError:
            pass
        else:
            assert 32 in (whole[place], whole[place] ^ 4), place  # between two words of the header, or behind it
        path.write_bytes(whole)
    assert open_chunk(path).about == {"content": "c"}


def test_chunk_of_an_older_version_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a"
    header = b'{"__metadata__": {"vllama": "{}"}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(FileError, match="another version"):
        open_chunk(path)


def test_file_that_cannot_be_opened_now_is_not_taken_for_a_broken_one(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    _write(tmp_path / "a", 0, 4)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError) as raised:  # noqa: PT011
            open_chunk(tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised.value.errno == errno.EMFILE
    assert open_chunk(tmp_path / "a").damaged("frame") == ()


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process stands for a disk with a bad sector")
def test_row_that_the_disk_cannot_read_is_damaged_and_the_next_one_is_not() -> None:
    libc, size = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    start = libc.mmap(None, 2 * size, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    libc.munmap(start, size)  # to read there is an input/output error
    sums = np.array([zlib.crc32(bytes(size))] * 2, np.uint32).tobytes()
    try:
        assert _damaged(Path("/proc/self/mem"), (0, 0, 0), Part("U32", (2, size // 4), start), sums) == (0,)
    finally:
        libc.munmap(start + size, size)
