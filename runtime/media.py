"""A file -> timed pictures and timed sound, lazily, on one clock that starts with the first of them."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from .container import audio_stream, audio_tracks, opened, video_stream
from .errors import DecodeError, MediaError
from .fields import Fields
from .scaling import Scaler
from .soundtrack import Heard, first_sound
from .stills import is_still, read_still
from .types import Frame, Modality
from .whole import MP4, check_bytes, check_protection, check_seconds, may_be_cut

_UNTIMED = -(1 << 63)  # FFmpeg's own sign for it
_SEEK_FRAMES = 300  # a seek costs about as much as decoding so many pictures
_MAYBE_BROKEN = ("mpegts", "wav")  # a broadcast has holes; the last block of a WAV may be short
_JUMP_SECONDS = (1.0, 3600.0)  # back or forth; what is between is the order of decoding, or a gap
_BROADCASTS = ("mpegts", "mpeg")  # whose clock may be set on the way, also where files are joined
_NO_TIMES = ("avi",)  # FFmpeg counts its packets in the order of decoding
# What FFmpeg makes of texts: a letter typed out as a film, a list of files whose content is not this file's.
_TEXTS = ("tty", "bin", "xbin", "adf", "idf", "concat", "hls", "dash")


@dataclass(frozen=True, eq=False)
class MediaInfo:
    """What a file holds.

    frame_times: seconds of each picture in display order, empty without pictures. frame_rate: average per second, 0 of
    a picture or sound file. duration: seconds of the longer of picture and sound. sound_start: seconds at which the
    sound begins. sound_notes: what a listener should know. heard: what reading its sound has found out.
    """

    path: Path
    kind: Modality
    frame_times: NDArray[np.float64]
    frame_rate: float
    duration: float
    has_audio: bool
    sound_start: float = 0.0
    sound_notes: tuple[str, ...] = ()
    heard: Heard = field(default_factory=Heard, repr=False)
    _pts: NDArray[np.int64] | None = field(default=None, repr=False)  # in display order; None: count the pictures
    _keyframes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), repr=False)
    counts_by_clock: bool = field(default=False, repr=False)  # the sound: its packets follow without a gap


@dataclass
class _Packets:
    """What demuxing tells of one stream, without decoding: hours of packets, so not as Python's numbers.

    tick: seconds of one unit of its times. fields: of interlaced H.264, whose pictures may come as two packets.
    is_even: each packet begins where the one before it ends, and is as long. jumps: one begins long before that, or
    longer after it than any gap lasts: files were joined. turns: one is decoded, by its clock, before its predecessor.
    """

    tick: float = 0.0
    fields: Fields | None = None
    pts: array[int] = field(default_factory=lambda: array("q"))  # _UNTIMED where a packet has none
    keyframes: array[int] = field(default_factory=lambda: array("q"))  # of pictures
    before_second: int | None = None  # how many came before the second of them
    end: int = 0
    length: int = 0  # of all together
    is_even: bool = True
    jumps: bool = False
    turns: bool = False
    is_paired: bool = False  # a picture came as two packets, of which the first counts
    _is_half: bool = False  # the last one of pts is such a first one
    _dts: int = _UNTIMED
    _first: int = 0  # durations
    _last: int = 0

    def add(self, packet: av.Packet[Any]) -> None:
        """Take note of the next one."""
        if packet.dts is not None:
            self.turns |= packet.dts < self._dts
            self._dts = packet.dts
        is_second = self.fields is not None and self.fields.is_second(bytes(packet))
        self.is_paired |= is_second
        if not is_second:
            self.drop_half()
        self._is_half = False
        if packet.is_keyframe and packet.pts is not None and not is_second:
            self.keyframes.append(packet.pts)
            if len(self.keyframes) == 2:
                self.before_second = len(self.pts)
        if packet.is_discard:  # decoded, but an edit list hides it
            return
        if not is_second:
            self.pts.append(_UNTIMED if packet.pts is None else packet.pts)
            self._is_half = self.fields is not None and self.fields.is_open
        self._add_time(packet.pts, packet.duration or 0)

    def drop_half(self) -> None:
        """Forget the last one if it is a field whose other one is missing: the decoder does not show it."""
        if self._is_half:
            self.pts.pop()

    def _add_time(self, pts: int | None, duration: int) -> None:
        if pts is None:
            self.is_even = False
            return
        if self.length:
            self.is_even &= pts == self.end and self._last in (0, self._first)
            self.jumps |= not -_JUMP_SECONDS[0] <= (pts - self.end) * self.tick <= _JUMP_SECONDS[1]
        self._first, self._last = self._first or duration, duration
        self.end = max(self.end if self.length else pts, pts + duration)
        self.length += duration


def probe(path: Path) -> MediaInfo:
    """Find out what a file holds; packets are read, nothing is decoded but a picture's header and the first sound.

    Raises:
        MediaError: it is not there, is empty, or holds neither picture nor sound.
        DecodeError: it is no media file, or was cut.
    """
    _check_file(path)
    if is_still(path):
        return MediaInfo(path, "image", np.zeros(1), 0.0, 0.0, False)
    check_bytes(path)
    check_protection(path)
    with opened(path) as container:
        video, audio = video_stream(container), audio_stream(container)
        if (video is None and audio is None) or container.format.name in _TEXTS:
            raise MediaError(f"{path}: holds neither picture nor sound; use a video, a sound file or a picture")
        found = _demux(path, container, [stream for stream in (video, audio) if stream is not None])
        check_seconds(path, container, {index: packets.end * packets.tick for index, packets in found.items()})
        form = container.format.name
        notes = [_which_track(container, audio)]
        rate = _frame_rate(video) if video is not None else 0.0
        pictures = found[video.index] if video is not None else _Packets()
        sound = found[audio.index] if audio is not None else _Packets()
    if not pictures.pts and not sound.pts:
        raise DecodeError(f"{path}: holds no whole picture and no sound; it may be cut, get the file again")
    info = _on_one_clock(path, form, rate, pictures, sound)
    if may_be_cut(path):
        notes.append("its last page is missing, so it may be cut; recordings of web radio have none either")
    return replace(info, sound_notes=tuple(filter(None, notes)))


def read_frames(info: MediaInfo, wanted: Sequence[int], size: int) -> Iterator[Frame]:
    """The pictures of those numbers, upright, stretched to (size, size) in one pass as upstream's decoder does it.

    Args:
        wanted: ascending numbers in display order.

    Raises:
        DecodeError: one of them cannot be decoded.

    Source: Video-LLaMA 64888c0 with decord 0.6.0: FFmpeg's scale filter from YUV, bilinear. Stills: PIL, bicubic.
    """
    if info.kind == "image":
        yield Frame(0, 0.0, read_still(info.path, size))
        return
    left = deque(wanted)
    for seek in (True, False):  # where seeks land late, the rest is read from the start
        if left:
            yield from _decoded(info, left, size, seek=seek and info._pts is not None)
    if left:
        raise DecodeError(f"{info.path}: picture {left[0]} cannot be decoded; it may be damaged, get the file again")


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode  # `exists` tells what cannot be looked at from what is not there, or not, by version
        if not S_ISREG(mode):
            what = "a folder" if S_ISDIR(mode) else "no file"
            raise MediaError(f"{path}: {what}; give a video, sound or picture")
        with path.open("rb") as file:
            empty = not file.read(1)
    except (FileNotFoundError, ValueError) as error:  # a name with a null character is nobody's
        raise MediaError(f"{path}: no such file; give a video, sound or picture") from error
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}; check its name and permissions") from error
    if empty:
        raise MediaError(f"{path}: is empty; get the file again")


def _which_track(container: InputContainer, heard: av.AudioStream | None) -> str:
    """Which of several sound tracks is heard, and how to hear another one; "" where there is no choice."""
    every, able = container.streams.audio, audio_tracks(container)
    if heard not in able or len(able) == 1:
        return ""
    named = heard.metadata.get("language", "und")
    language = "" if named == "und" else f" ({named})"
    other = next(number for number, stream in enumerate(every) if stream in able and stream != heard)
    pictures = "-map 0:v " if video_stream(container) is not None else ""
    return (
        f"hears sound track {1 + able.index(heard)} of {len(able)}{language}; "
        f"for another: ffmpeg -i FILE {pictures}-map 0:a:{other} -c copy NEW.mkv"
    )


def _frame_rate(video: av.VideoStream) -> float:
    rate = video.average_rate or video.guessed_rate
    return float(rate) if rate else 25.0  # FFmpeg's own assumption where a file does not say


def _demux(
    path: Path, container: InputContainer, streams: list[av.VideoStream | av.AudioStream]
) -> dict[int, _Packets]:
    found = {stream.index: _Packets(float(stream.time_base or 0), _fields(stream)) for stream in streams}
    for packet in container.demux(streams):
        if not packet.size:
            continue
        if packet.is_corrupt and container.format.name not in _MAYBE_BROKEN:
            raise DecodeError(f"{path}: ends in the middle of a packet; it was cut, get the file again")
        found[packet.stream.index].add(packet)
    for packets in found.values():
        packets.drop_half()
    return found


def _fields(stream: av.VideoStream | av.AudioStream) -> Fields | None:
    """What finds the second fields of interlaced H.264."""
    context = stream.codec_context
    if context is None or context.name != "h264":
        return None
    fields = Fields(context.extradata or b"")
    return fields if fields.are_possible else None


def _on_one_clock(path: Path, form: str, rate: float, pictures: _Packets, sound: _Packets) -> MediaInfo:
    """What the packets of both streams say, in seconds since the first of what they show and let hear."""
    pictures.pts = _decodable(pictures)
    is_counted = form in _NO_TIMES or (form in _BROADCASTS and pictures.turns)
    pts = None if is_counted else _distinct(pictures.pts)
    times = _counted(pictures, form, rate) if pts is None else pts * pictures.tick
    if pts is not None and pictures.jumps and form in _BROADCASTS:
        times = _without_jumps(times, 1.0 / rate)
    if pts is not None and pictures.is_paired and len(times) > 1:
        rate = float((len(times) - 1) / (times[-1] - times[0]))  # the file's own may be that of fields
    sound_begin = first_sound(path) if sound.pts else None
    zero = min([*times[:1].tolist(), *([] if sound_begin is None else [sound_begin])], default=0.0)
    picture_end = zero
    if len(times):
        picture_end = _picture_end(pictures, pts, form) or float(times[-1]) + 1.0 / rate
    return MediaInfo(
        path=path,
        kind="video" if len(times) else "audio",
        frame_times=times - zero,
        frame_rate=rate if len(times) else 0.0,
        duration=max(picture_end, _sound_end(sound, sound_begin) if sound.pts else zero) - zero,
        has_audio=bool(sound.pts),
        sound_start=0.0 if sound_begin is None else sound_begin - zero,
        _pts=pts,
        _keyframes=np.array(sorted(pictures.keyframes), np.int64),
        counts_by_clock=form == MP4 and sound.is_even,
    )


def _counted(pictures: _Packets, form: str, rate: float) -> NDArray[np.float64]:
    """Seconds on the file's clock, where not every picture has a time of its own: files were joined, or it is AVI."""
    known = (pts for pts in pictures.pts if pts != _UNTIMED)
    begin = next(known, 0) * pictures.tick if form not in _NO_TIMES else 0.0
    return begin + np.arange(len(pictures.pts)) / rate


def _without_jumps(times: NDArray[np.floating], step: float) -> NDArray[np.float64]:
    steps = np.diff(times, prepend=times[:1])
    return np.asarray(times[0] + np.cumsum(np.where(steps > _JUMP_SECONDS[1], step, steps)), np.float64)


def _sound_end(sound: _Packets, begin: float | None) -> float:
    """Seconds on the file's clock."""
    if sound.jumps and begin is not None:
        return begin + sound.length * sound.tick
    return sound.end * sound.tick


def _picture_end(pictures: _Packets, pts: NDArray[np.int64] | None, form: str) -> float | None:
    """Seconds on the file's clock at which the last picture ends, as its packets tell; None: they do not.

    In an MP4 a packet lasts until the next one is decoded, not shown: so only all of them together tell it.
    """
    if pts is None or pictures.is_paired or (pictures.jumps and form in _BROADCASTS):
        return None
    ends = [pictures.end, *([min(pictures.pts) + pictures.length] if form == MP4 else [])]
    return min((end * pictures.tick for end in ends if end > pts[-1]), default=None)


def _decodable(pictures: _Packets) -> array[int]:
    """Not those shown before the first keyframe: a recording that starts in the middle lacks what they are made of."""
    if not pictures.keyframes:
        return pictures.pts
    first, until = pictures.keyframes[0], pictures.before_second  # where files were joined, the clock may go back later
    begin = array("q", (pts for pts in pictures.pts[:until] if pts == _UNTIMED or pts >= first))
    return begin if until is None else begin + pictures.pts[until:]


def _distinct(pts: array[int]) -> NDArray[np.int64] | None:
    """In display order, if every picture has a time of its own."""
    known = np.sort(np.array(pts, np.int64))
    return known if _UNTIMED not in known[:1] and (np.diff(known) > 0).all() else None


def _decoded(info: MediaInfo, left: deque[int], size: int, *, seek: bool) -> Iterator[Frame]:
    """Takes from `left` what it yields; stops early where a picture is not found in its place."""
    scaler = Scaler(size)
    with opened(info.path) as container:
        stream = video_stream(container)
        assert stream is not None
        stream.thread_type = "AUTO"
        frames, position, count = container.decode(stream), 0, 0
        while left:
            jump = _keyframe_before(info, left[0]) if seek and left[0] - position > _SEEK_FRAMES else 0
            if jump > position:
                assert info._pts is not None
                container.seek(int(info._pts[jump]), stream=stream)
                frames, position = container.decode(stream), jump
            frame = next(frames, None)
            if frame is None:
                return
            number = count if info._pts is None else _number(info._pts, frame.pts)
            count += 1
            position = max(position, number)
            if number > left[0]:
                return
            if number == left[0]:
                yield Frame(left.popleft(), float(info.frame_times[number]), scaler(frame))


def _number(times: NDArray[np.int64], pts: int | None) -> int:
    """Which picture has that time; -1: none has."""
    place = 0 if pts is None else int(np.searchsorted(times, pts))
    return place if place < len(times) and times[place] == pts else -1


def _keyframe_before(info: MediaInfo, number: int) -> int:
    """The number of the last picture at or before that one from which decoding can start."""
    assert info._pts is not None
    place = np.searchsorted(info._keyframes, info._pts[number], "right") - 1
    return int(np.searchsorted(info._pts, info._keyframes[place])) if place >= 0 else 0
