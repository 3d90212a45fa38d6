"""A file -> timed pictures and timed sound, lazily, on one clock that starts with the first of them."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from .errors import DecodeError, MediaError
from .scaling import Scaler
from .stills import is_still, read_still
from .types import Float32, Frame, Modality, Samples
from .whole import MP4, check_bytes, check_seconds

_UNTIMED = -(1 << 63)  # FFmpeg's own sign for it
_SEEK_FRAMES = 300  # a seek costs about as much as decoding so many pictures
_MAYBE_BROKEN = ("mpegts", "wav")  # a broadcast has holes; the last block of a WAV may be short
_NO_TIMES = ("avi",)  # FFmpeg counts its packets in the order of decoding
# What FFmpeg makes of texts: a letter typed out as a film, a list of files whose content is not this file's.
_TEXTS = ("tty", "bin", "xbin", "adf", "idf", "concat", "hls", "dash")
_MAX_SAMPLE_RATE = 1_000_000
_GAP_SECONDS = (0.1, 3600.0)  # less is rounding, or a clock that drifts; more is a clock that was set


@dataclass(frozen=True, eq=False)
class MediaInfo:
    """What a file holds.

    frame_times: seconds of each picture in display order, empty without pictures. frame_rate: average per second, 0 of
    a picture or sound file. duration: seconds of the longer of picture and sound. sound_start: seconds at which the
    sound begins. tracks: of sound, one of which is heard: that which FFmpeg likes best.
    """

    path: Path
    kind: Modality
    frame_times: NDArray[np.float64]
    frame_rate: float
    duration: float
    has_audio: bool
    sound_start: float = 0.0
    tracks: int = 0
    _pts: NDArray[np.int64] | None = field(default=None, repr=False)  # in display order; None: count the pictures
    _keyframes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), repr=False)


@dataclass
class _Packets:
    """What demuxing tells of one stream, without decoding: hours of packets, so not as Python's numbers.

    tick: seconds of one unit of its times.
    """

    tick: float = 0.0
    pts: array[int] = field(default_factory=lambda: array("q"))  # _UNTIMED where a packet has none
    keyframes: array[int] = field(default_factory=lambda: array("q"))  # of pictures
    end: int = 0
    length: int = 0  # of all together


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
    with opened(path) as container:
        video, audio = _video_stream(container), _audio_stream(container)
        if (video is None and audio is None) or container.format.name in _TEXTS:
            raise MediaError(f"{path}: holds neither picture nor sound; use a video, a sound file or a picture")
        found = _demux(path, container, [stream for stream in (video, audio) if stream is not None])
        check_seconds(path, container, {index: packets.end * packets.tick for index, packets in found.items()})
        form, tracks = container.format.name, len(container.streams.audio)
        rate = _frame_rate(video) if video is not None else 0.0
        pictures = found[video.index] if video is not None else _Packets()
        sound = found[audio.index] if audio is not None else _Packets()
    if not pictures.pts and not sound.pts:
        raise DecodeError(f"{path}: holds no whole picture and no sound; it may be cut, get the file again")
    return replace(_on_one_clock(path, form, rate, pictures, sound), tracks=tracks)


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


def read_sound(info: MediaInfo) -> Iterator[Samples]:
    """All sound, block by block: every channel at the file's own rate, in [-1, 1], silence where the file has a gap.

    Upstream closes gaps, and hears all that comes after one too early.

    Raises:
        DecodeError: it cannot be decoded, changes its rate or channels on the way, or holds what is no number.
    """
    form: tuple[int, int] | None = None
    begun: float | None = None
    done = 0
    with opened(info.path, "its sound ", "convert it, or use --no-audio") as container:
        stream = _audio_stream(container)
        assert stream is not None
        for frame in container.decode(stream):
            data, rate = _channels(frame), frame.sample_rate
            form = form or (rate, len(data))
            _check_sound(info.path, data, rate, form)
            if frame.time is not None:
                begun = frame.time if begun is None else begun
                gap = frame.time - begun - done / rate
                for count in _blocks(gap, rate):
                    yield Samples(info.sound_start + done / rate, np.zeros((len(data), count), np.float32), rate)
                    done += count
            yield Samples(info.sound_start + done / rate, data, rate)
            done += data.shape[1]


def _blocks(gap: float, rate: int) -> Iterator[int]:
    """The samples of a gap of so many seconds, a second of them at most at a time; none where it is no real one."""
    left = round(gap * rate) if _GAP_SECONDS[0] <= gap <= _GAP_SECONDS[1] else 0
    while left > 0:
        yield min(left, rate)
        left -= rate


def _check_sound(path: Path, data: Float32, rate: int, form: tuple[int, int]) -> None:
    if not np.isfinite(data).all():
        raise DecodeError(f"{path}: its sound holds values that are no numbers; convert it, or use --no-audio")
    if rate > _MAX_SAMPLE_RATE:
        raise DecodeError(
            f"{path}: its sound has {rate} Hz, more than {_MAX_SAMPLE_RATE}; convert it to 48000 Hz, or use --no-audio"
        )
    if form != (rate, len(data)):
        raise DecodeError(
            f"{path}: its sound changes from {form[0]} Hz, {form[1]} channels to {rate} Hz, "
            f"{len(data)} channels; convert it to one form, or use --no-audio"
        )


@contextmanager
def opened(
    path: Path, what: str = "", then: str = "it may be cut or no media file, get it again"
) -> Iterator[InputContainer]:
    """An open file whose failures, also those met while reading, are ours."""
    try:
        # Absolute, for FFmpeg takes the start of "12:30.mp4" for a protocol.
        with av.open(path.absolute(), metadata_errors="replace") as container:
            yield container
    except av.error.FFmpegError as error:
        reason = (error.strerror or str(error)).lower()
        if reason.startswith("error number"):  # one that FFmpeg has no words for
            reason = "damaged data"
        raise DecodeError(f"{path}: {what}cannot be decoded ({reason}); {then}") from error


def _check_file(path: Path) -> None:
    try:
        if not path.exists():
            raise MediaError(f"{path}: no such file; give a video, sound or picture")
        if not path.is_file():
            raise MediaError(f"{path}: {'a folder' if path.is_dir() else 'no file'}; give a video, sound or picture")
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}; check its name and permissions") from error
    if empty:
        raise MediaError(f"{path}: is empty; get the file again")


def _video_stream(container: InputContainer) -> av.VideoStream | None:
    """The one FFmpeg likes best, if it is not the cover of a sound file."""
    covers = av.stream.Disposition.attached_pic
    for stream in (container.streams.best("video"), *container.streams.video):
        if isinstance(stream, av.VideoStream) and not stream.disposition & covers:
            return stream
    return None


def _audio_stream(container: InputContainer) -> av.AudioStream | None:
    """The one FFmpeg likes best."""
    stream = container.streams.best("audio")
    assert stream is None or isinstance(stream, av.AudioStream)
    return stream


def _frame_rate(video: av.VideoStream) -> float:
    rate = video.average_rate or video.guessed_rate
    return float(rate) if rate else 25.0  # FFmpeg's own assumption where a file does not say


def _demux(
    path: Path, container: InputContainer, streams: list[av.VideoStream | av.AudioStream]
) -> dict[int, _Packets]:
    found = {stream.index: _Packets(float(stream.time_base or 0)) for stream in streams}
    for packet in container.demux(streams):
        if not packet.size:
            continue
        if packet.is_corrupt and container.format.name not in _MAYBE_BROKEN:
            raise DecodeError(f"{path}: ends in the middle of a packet; it was cut, get the file again")
        packets = found[packet.stream.index]
        if packet.is_keyframe and packet.pts is not None and packet.stream.type == "video":
            packets.keyframes.append(packet.pts)
        if packet.is_discard:  # decoded, but an edit list hides it
            continue
        packets.pts.append(_UNTIMED if packet.pts is None else packet.pts)
        if packet.pts is not None:
            packets.end = max(packets.end, packet.pts + (packet.duration or 0))
            packets.length += packet.duration or 0
    return found


def _on_one_clock(path: Path, form: str, rate: float, pictures: _Packets, sound: _Packets) -> MediaInfo:
    """What the packets of both streams say, in seconds since the first of what they show and let hear."""
    pictures.pts = _decodable(pictures)
    pts = _distinct(pictures.pts) if form not in _NO_TIMES else None
    times = np.arange(len(pictures.pts)) / rate if pts is None else pts * pictures.tick
    first_sound = _first_sound(path) if sound.pts else None
    zero = min([*times[:1].tolist(), *([] if first_sound is None else [first_sound])], default=0.0)
    picture_end = zero
    if len(times):
        picture_end = _picture_end(pictures, pts, form) or float(times[-1]) + 1.0 / rate
    return MediaInfo(
        path=path,
        kind="video" if len(times) else "audio",
        frame_times=times - zero,
        frame_rate=rate if len(times) else 0.0,
        duration=max(picture_end, sound.end * sound.tick if sound.pts else zero) - zero,
        has_audio=bool(sound.pts),
        sound_start=0.0 if first_sound is None else first_sound - zero,
        _pts=pts,
        _keyframes=np.array(sorted(pictures.keyframes), np.int64),
    )


def _picture_end(pictures: _Packets, pts: NDArray[np.int64] | None, form: str) -> float | None:
    """Seconds on the file's clock at which the last picture ends, as its packets tell; None: they do not.

    In an MP4 a packet lasts until the next one is decoded, not shown: so only all of them together tell it.
    """
    if pts is None:
        return None
    ends = [pictures.end, *([min(pictures.pts) + pictures.length] if form == MP4 else [])]
    return min((end * pictures.tick for end in ends if end > pts[-1]), default=None)


def _decodable(pictures: _Packets) -> array[int]:
    """Not those shown before the first keyframe: a recording that starts in the middle lacks what they are made of."""
    if not pictures.keyframes:
        return pictures.pts
    first = pictures.keyframes[0]
    return array("q", (pts for pts in pictures.pts if pts == _UNTIMED or pts >= first))


def _distinct(pts: array[int]) -> NDArray[np.int64] | None:
    """In display order, if every picture has a time of its own."""
    known = np.sort(np.array(pts, np.int64))
    return known if _UNTIMED not in known[:1] and (np.diff(known) > 0).all() else None


def _first_sound(path: Path) -> float | None:
    """Seconds on the file's clock at which sound begins, after what the encoder put before it was dropped."""
    try:
        with opened(path) as container:
            stream = _audio_stream(container)
            assert stream is not None
            return next((frame.time for frame in container.decode(stream)), None)
    except DecodeError:
        return None  # said when the sound is read, if it is


def _decoded(info: MediaInfo, left: deque[int], size: int, *, seek: bool) -> Iterator[Frame]:
    """Takes from `left` what it yields; stops early where a picture is not found in its place."""
    scaler = Scaler(size)
    with opened(info.path) as container:
        stream = _video_stream(container)
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


def _channels(frame: av.AudioFrame) -> Float32:
    """float32 (channels, n), integers over their largest magnitude."""
    data: np.ndarray = frame.to_ndarray()
    if frame.format.is_packed:
        data = data.reshape(-1, frame.layout.nb_channels).T
    if data.dtype == np.uint8:
        data = (data.astype(np.float32) - 128.0) / 128.0
    elif data.dtype.kind == "i":
        data = data / 2.0 ** (8 * data.dtype.itemsize - 1)
    return np.ascontiguousarray(data, np.float32)
