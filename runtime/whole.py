"""Whether a media file is all there: what it says of its own length against what there is.

A file cut in a download or by an empty battery otherwise plays up to there without a word.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from av.container import InputContainer
from av.stream import Stream

from .errors import DecodeError

_UNKNOWN_RIFF_BYTES = 0x7FFF0000  # and more is what programs write that do not know the length of a sound yet
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"wide", b"skip", b"sidx", b"styp")
MP4, _MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"  # as FFmpeg calls them
_TIMED = (MP4, _MATROSKA)  # containers that say how long each stream lasts
_CUT_SECONDS = 0.25


def check_bytes(path: Path) -> None:
    """The size that WAV, AVI, MP4, MOV, Matroska and WebM state.

    Raises:
        DecodeError: the file is shorter.
    """
    with path.open("rb") as file:
        there = file.seek(0, 2)
        file.seek(0)
        start = file.read(12)
        if start[:4] == b"RIFF":
            stated = _riff_end(start)
        elif start[:4] == _EBML:
            stated = _segment_end(file)
        else:
            stated = _last_box_end(file, there)
    if stated > there:
        raise DecodeError(f"{path}: says it has {stated} bytes and has {there}; it was cut, get the file again")


def check_seconds(path: Path, container: InputContainer, ends: dict[int, float]) -> None:
    """The length that MP4, MOV, Matroska and WebM state of each stream.

    Args:
        ends: seconds on the file's clock at which the streams were found to end, by index.

    Raises:
        DecodeError: one ends sooner.
    """
    if container.format.name not in _TIMED:
        return
    for stream in container.streams:
        stated = _tagged_end(stream) if container.format.name == _MATROSKA else _stated_end(stream)
        if stream.index in ends and stated is not None and ends[stream.index] < stated - _CUT_SECONDS:
            raise DecodeError(
                f"{path}: its {stream.type} lasts until {stated:.1f} s and ends after {ends[stream.index]:.1f} s; "
                "it was cut, get the file again"
            )


def _riff_end(start: bytes) -> int:
    stated = int.from_bytes(start[4:8], "little")
    return stated + 8 if stated < _UNKNOWN_RIFF_BYTES else 0


def _segment_end(file: BinaryIO) -> int:
    """Of a Matroska file: an EBML header, then one segment."""
    file.seek(4)
    header = _vint(file)
    if header is None:
        return 0
    file.seek(header, 1)
    if file.read(4) != _SEGMENT:
        return 0
    size = _vint(file)
    return 0 if size is None else file.tell() + size


def _vint(file: BinaryIO) -> int | None:
    """Matroska's variable-length number; None where it says that it is not known."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    value = int.from_bytes(bytes([first[0] & ((1 << (8 - length)) - 1)]) + rest, "big")
    return None if value == (1 << 7 * length) - 1 else value


def _last_box_end(file: BinaryIO, there: int) -> int:
    """Of an MP4 or MOV file, a row of boxes; 0 of anything else, and where something else hangs on behind."""
    place = 0
    while place < there:
        file.seek(place)
        head = file.read(16)
        if head[4:8] not in _BOXES:
            return 0
        size: int = struct.unpack(">I", head[:4])[0]
        if size == 1 and len(head) == 16:
            size = struct.unpack(">Q", head[8:])[0]
        if size < 8:  # 0: it reaches to the end
            return 0
        place += size
    return place


def _stated_end(stream: Stream) -> float | None:
    """Seconds on the file's clock."""
    if stream.duration is None or stream.time_base is None:
        return None
    return float((stream.duration + (stream.start_time or 0)) * stream.time_base)


def _tagged_end(stream: Stream) -> float | None:
    """Of a Matroska file, likewise. What FFmpeg calls a stream's duration there may be a guess: that of the file."""
    tag = stream.metadata.get("DURATION", "").split(":")  # counted from the start of the file
    try:
        return int(tag[0]) * 3600 + int(tag[1]) * 60 + float(tag[2]) if len(tag) == 3 else None
    except ValueError:
        return None
