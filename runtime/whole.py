"""Whether a media file is all there, and free to read: what it says of its own length against what there is.

A file cut in a download or by an empty battery otherwise plays up to there without a word.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from av.container import InputContainer
from av.stream import Stream

from .errors import DecodeError

_UNKNOWN_RIFF_BYTES = 0x7FFF0000  # and more is what programs write that do not know the length of a sound yet
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_PAGE, _LAST_PAGE, _LONGEST_PAGE = b"OggS", 4, 65307
_ENTRIES, _PROTECTED = b"stsd", (b"encv", b"enca", b"drms", b"drmi")
_HEAD = 1 << 16  # bytes, in which a file tells of itself
_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"wide", b"skip", b"sidx", b"styp")
MP4, _MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"  # as FFmpeg calls them
_TIMED = (MP4, _MATROSKA)  # containers that say how long each stream lasts
_CUT_SECONDS = 0.25


def check_bytes(path: Path) -> None:
    """The size that WAV, AVI, AIFF, MP4, MOV, Matroska, WebM, ASF (WMV, WMA), FLV and MP3 state.

    Raises:
        DecodeError: the file is shorter.
    """
    with path.open("rb") as file:
        there = file.seek(0, 2)
        file.seek(0)
        start = file.read(12)
        if start[:4] == b"RIFF":
            stated = _riff_end(start)
        elif start[:4] == b"FORM":
            stated = _form_end(start)
        elif start[:4] == _EBML:
            stated = _segment_end(file)
        elif start[:4] == _ASF[:4]:
            stated = _asf_end(file)
        elif start[:3] == b"FLV":
            stated = _flv_end(file)
        elif start[:3] == b"ID3" or (start[0] == 0xFF and start[1:2] >= b"\xe0"):
            stated = _mp3_bytes(file)
        else:
            stated = _last_box_end(file, there)
    if stated > there:
        raise DecodeError(f"{path}: says it has {stated} bytes and has {there}; it was cut, get the file again")


def check_protection(path: Path) -> None:
    """That an MP4 or MOV is not encrypted.

    Raises:
        DecodeError: it is.
    """
    with path.open("rb") as file:
        movie = _movie(file, file.seek(0, 2))
    place = movie.find(_ENTRIES)
    while place >= 0:
        if movie[place + 16 : place + 20] in _PROTECTED:  # version, count, and the size of the first entry lie between
            raise DecodeError(f"{path}: is copy-protected (DRM) and cannot be read; use a copy that is not")
        place = movie.find(_ENTRIES, place + 4)


def may_be_cut(path: Path) -> bool:
    """Whether it is Ogg and its last page is not marked as such: so of a cut file, and rightly of saved web radio."""
    with path.open("rb") as file:
        if file.read(4) != _PAGE:
            return False
        file.seek(max(file.seek(0, 2) - _LONGEST_PAGE, 0))
        rest = file.read()
    place = rest.rfind(_PAGE)
    return not (0 <= place < len(rest) - 5 and rest[place + 5] & _LAST_PAGE)


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


def _form_end(start: bytes) -> int:
    stated = int.from_bytes(start[4:8], "big")
    return stated + 8 if start[8:11] == b"AIF" and stated < _UNKNOWN_RIFF_BYTES else 0


def _asf_end(file: BinaryIO) -> int:
    file.seek(0)
    head = file.read(_HEAD)
    place = head.find(_ASF_PROPERTIES)
    if place < 0 or len(head) < place + 92:
        return 0
    stated: int = struct.unpack_from("<Q", head, place + 40)[0]
    return stated if not head[place + 88] & 1 else 0  # a broadcast does not know it


def _flv_end(file: BinaryIO) -> int:
    file.seek(0)
    head, name = file.read(_HEAD), b"\0\x08filesize\0"  # the length of the name; 0: a double follows
    place = head.find(name) + len(name)
    if place < len(name) or len(head) < place + 8:
        return 0
    stated: float = struct.unpack_from(">d", head, place)[0]
    return int(stated) if 0 <= stated < 1 << 53 else 0


def _mp3_bytes(file: BinaryIO) -> int:
    """What its first frame says, if it only tells of the others; some programs count a tag before it, some do not."""
    file.seek(0)
    tag = file.read(10)
    size = 0
    for seven_bits in tag[6:10]:
        size = size << 7 | seven_bits
    file.seek(10 + size if tag[:3] == b"ID3" else 0)
    frame = file.read(200)
    place = max(frame.find(b"Xing", 0, 64), frame.find(b"Info", 0, 64))
    if place < 0 or len(frame) < place + 16:
        return 0
    flags, *fields = struct.unpack_from(">III", frame, place + 4)
    return int(fields[flags & 1]) if flags & 2 else 0  # the number of frames may stand before it


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
    end = 0
    for _, place, size in _boxes(file, there):
        if not size:
            return 0
        end = place + size
    return end


def _movie(file: BinaryIO, there: int) -> bytes:
    """The box of an MP4 or MOV file that describes its streams; empty where there is none."""
    for name, place, size in _boxes(file, there):
        if name == b"moov":
            file.seek(place)
            return file.read(size)
    return b""


def _boxes(file: BinaryIO, there: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, place and bytes of each of a row; the last has 0 bytes where it is no box, or reaches to the end."""
    place = 0
    while place < there:
        file.seek(place)
        head = file.read(16)
        size: int = struct.unpack(">I", head[:4])[0] if head[4:8] in _BOXES else 0
        if size == 1 and len(head) == 16:
            size = struct.unpack(">Q", head[8:])[0]
        if size < 8:
            yield head[4:8], place, 0
            return
        yield head[4:8], place, size
        place += size


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
