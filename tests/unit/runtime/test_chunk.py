from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vllama.runtime.chunk import open_chunk, write_arrays, write_merged, write_whole
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

    if not Path("/proc/self/statm").exists():
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
    ],
)  # fmt: skip
def test_header_that_is_none_of_ours_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(FileError):
        open_chunk(path)


def test_header_of_absurd_length_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(FileError, match="header"):
        open_chunk(path)


def test_writing_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"new"
        raise KeyboardInterrupt

    path = tmp_path / "a"
    write_whole(path, [b"old"])
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, blocks())
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
