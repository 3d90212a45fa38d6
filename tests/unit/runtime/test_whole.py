from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllama.runtime.errors import DecodeError
from vllama.runtime.whole import MP4, check_bytes, check_protection, check_seconds, may_be_cut

_FTYP = struct.pack(">I4s4s4x", 16, b"ftyp", b"isom")


@pytest.mark.parametrize("head", [struct.pack(">I4s", 48, b"mdat"), struct.pack(">I4sQ", 1, b"mdat", 48)])
def test_box_ends_where_its_size_in_32_or_64_bits_says(head: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(_FTYP + head.ljust(48, b"\0"))
    check_bytes(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DecodeError, match=r"clip\.mp4: says it has 64 bytes and has 63; it was cut"):
        check_bytes(path)


_ID3 = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)
_XING = bytes.fromhex("fffb9064") + bytes(32) + b"Xing"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(14)
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365") + bytes(24)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"FORM" + struct.pack(">I", 392) + b"AIFF", id="AIFF"),
        pytest.param(b"FORM" + struct.pack(">I", 392) + b"AIFC", id="AIFC"),
        pytest.param(_ASF + _ASF_FILE + struct.pack("<Q40xI", 400, 2), id="ASF"),
        pytest.param(b"FLV\x01\x05" + bytes(20) + b"\0\x08filesize\0" + struct.pack(">d", 400.0), id="FLV"),
        pytest.param(_XING + struct.pack(">III", 3, 7, 400), id="MP3 with frames and bytes"),
        pytest.param(_XING.replace(b"Xing", b"Info") + struct.pack(">II", 2, 400) + bytes(4), id="MP3 with bytes"),
        pytest.param(_ID3 + _XING + struct.pack(">III", 3, 7, 400), id="MP3 behind a tag"),
    ],
)
def test_file_that_has_fewer_bytes_than_it_says_was_cut(head: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip"
    path.write_bytes(head.ljust(400, b"\0"))
    check_bytes(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DecodeError, match=r"clip: says it has 400 bytes and has 399; it was cut"):
        check_bytes(path)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"FORM" + struct.pack(">I", 0xFFFFFFFF) + b"AIFF", id="AIFF written into a pipe"),
        pytest.param(_ASF + _ASF_FILE + struct.pack("<Q40xI", 400, 3), id="ASF that was broadcast"),
        pytest.param(b"FLV\x01\x05" + bytes(20) + b"\0\x08filesize\0" + struct.pack(">d", 0.0), id="FLV that was live"),
        pytest.param(_XING + struct.pack(">III", 1, 7, 400), id="MP3 with frames"),
        pytest.param(b"\xff\xfb\x90\x64", id="MP3"),
        pytest.param(b"\xff", id="one byte"),
    ],
)
def test_file_that_does_not_say_its_bytes_may_have_any(head: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip"
    path.write_bytes(head)
    check_bytes(path)


def test_ogg_without_a_last_page_may_be_cut(tmp_path: Path) -> None:
    path, page = tmp_path / "radio.ogg", b"OggS\0%c" + bytes(21)
    path.write_bytes(page % 2 + page % 0 + page % 4)
    assert not may_be_cut(path)
    path.write_bytes(page % 2 + page % 4 + page % 0 + bytes(70000))
    assert may_be_cut(path)
    path.write_bytes(page % 4 + page % 0)
    assert may_be_cut(path)
    path.write_bytes(b"RIFF" + page % 0)
    assert not may_be_cut(path)


@pytest.mark.parametrize("kind", [b"encv", b"enca", b"drms", b"drmi"])
def test_protected_streams_are_refused(kind: bytes, tmp_path: Path) -> None:
    def stream(name: bytes) -> bytes:
        return struct.pack(">I4sIII4s", 36, b"stsd", 0, 1, 20, name) + bytes(12)

    def clip(*names: bytes) -> bytes:
        streams = b"".join(stream(name) for name in names)
        return (
            _FTYP
            + struct.pack(">I4s", 16, b"free")
            + bytes(8)
            + struct.pack(">I4s", 8 + len(streams), b"moov")
            + streams
        )

    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(b"avc1", b"mp4a") + kind)
    check_protection(path)
    path.write_bytes(clip(b"avc1", kind))
    with pytest.raises(DecodeError, match=r"clip\.mp4: is copy-protected \(DRM\) and cannot be read; use a copy"):
        check_protection(path)


def _container(form: str, **stream: Any) -> Any:
    made = SimpleNamespace(index=0, type="video", time_base=Fraction(1, 10), metadata={}, **stream)
    return SimpleNamespace(format=SimpleNamespace(name=form), streams=[made])


@pytest.mark.parametrize(
    "container",
    [
        _container(MP4, duration=40, start_time=10),
        _container(MP4, duration=50, start_time=None),
        _container("matroska,webm", duration=90, start_time=0),
    ],
)
def test_stream_that_ends_a_quarter_of_a_second_too_soon_was_cut(container: Any) -> None:
    """All of them say that they last until second 5; what Matroska calls a duration is none."""
    container.streams[0].metadata["DURATION"] = "00:00:05.000000000"
    check_seconds(Path("clip"), container, {0: 4.8})
    check_seconds(Path("clip"), container, {})
    with pytest.raises(DecodeError, match=r"clip: its video lasts until 5\.0 s and ends after 4\.7 s; it was cut"):
        check_seconds(Path("clip"), container, {0: 4.7})
    container.format.name = "mpegts"
    check_seconds(Path("clip"), container, {0: 1.0})


def test_matroska_counts_hours_and_minutes() -> None:
    container = _container("matroska,webm", duration=None, start_time=0)
    container.streams[0].metadata["DURATION"] = "01:02:05.500000000"
    check_seconds(Path("clip"), container, {0: 3725.4})
    with pytest.raises(DecodeError, match=r"lasts until 3725\.5 s and ends after 3725\.2 s"):
        check_seconds(Path("clip"), container, {0: 3725.2})
