from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllama.runtime.errors import DecodeError
from vllama.runtime.whole import MP4, check_bytes, check_seconds

_FTYP = struct.pack(">I4s4s4x", 16, b"ftyp", b"isom")


@pytest.mark.parametrize("head", [struct.pack(">I4s", 48, b"mdat"), struct.pack(">I4sQ", 1, b"mdat", 48)])
def test_box_ends_where_its_size_in_32_or_64_bits_says(head: bytes, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(_FTYP + head.ljust(48, b"\0"))
    check_bytes(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DecodeError, match=r"clip\.mp4: says it has 64 bytes and has 63; it was cut"):
        check_bytes(path)


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
