"""A file -> timed pictures and timed sound, lazily, on one clock that starts with the first of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import DecodeError, MediaError
from .types import Float32, Frame, Samples

_PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # everything else is FFmpeg's
_SEEK_FRAMES = 300  # a seek costs about as much as decoding so many pictures
# Containers that say how long they are, so that a file that was cut can be told from one that ends there.
_WITH_LENGTH = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "wav")
_CUT_SECONDS = 0.25


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds.

    frame_times: seconds of each picture in display order, empty without pictures. frame_rate: average per second, 0 of
    a picture or sound file. duration: seconds of the longer of picture and sound. sound_start: seconds at which the
    sound begins.
    """

    path: Path
    kind: Literal["video", "audio", "image"]
    frame_times: NDArray[np.float64]
    frame_rate: float
    duration: float
    has_audio: bool
    sound_start: float = 0.0
    _pts: NDArray[np.int64] | None = field(default=None, repr=False)  # in display order; None: count the pictures
    _keyframes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), repr=False)


@dataclass
class _Packets:
    """What demuxing tells of one stream, without decoding."""

    pts: list[int | None] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)
    end: int = 0


def probe(path: Path) -> MediaInfo:
    """Find out what a file holds; packets are read, nothing is decoded but a picture's header and the first sound.

    Raises:
        MediaError: it is not there, is empty, or holds neither picture nor sound.
        DecodeError: it is no media file, or was cut.
    """
    _check_file(path)
    if _is_picture(path):
        return MediaInfo(path, "image", np.zeros(1), 0.0, 0.0, False)
    with opened(path) as container:
        video, audio = _video_stream(container), container.streams.best("audio")
        if video is None and audio is None:
            raise MediaError(f"{path}: holds neither picture nor sound; use a video, a sound file or a picture")
        found = _demux(container, [stream for stream in (video, audio) if stream is not None])
        pictures = found[video.index] if video is not None else _Packets()
        sound = found[audio.index] if audio is not None else _Packets()
        tick = float(video.time_base) if video is not None and video.time_base else 0.0
        rate = _frame_rate(video) if video is not None else 0.0
        sound_end = sound.end * float(audio.time_base) if audio is not None and audio.time_base else 0.0
        _check_whole(container, found)
    if not pictures.pts and not sound.pts:
        raise DecodeError(f"{path}: holds no whole picture and no sound; it may be cut, get the file again")
    pts = _distinct(pictures.pts)
    times = np.arange(len(pictures.pts)) / rate if pts is None else pts * tick
    first_sound = _first_sound(path) if sound.pts else None
    starts = [*times[:1].tolist(), *([] if first_sound is None else [first_sound])]
    zero = min(starts, default=0.0)
    picture_end = float(times[-1]) + 1.0 / rate if len(times) else zero
    return MediaInfo(
        path=path,
        kind="video" if len(times) else "audio",
        frame_times=times - zero,
        frame_rate=rate if len(times) else 0.0,
        duration=max(picture_end, sound_end if sound.pts else zero) - zero,
        has_audio=bool(sound.pts),
        sound_start=0.0 if first_sound is None else first_sound - zero,
        _pts=pts,
        _keyframes=np.array(sorted(pictures.keyframes), np.int64),
    )


def read_frames(info: MediaInfo, wanted: Sequence[int], size: int) -> Iterator[Frame]:
    """The pictures of those numbers, upright, stretched to (size, size) in one pass as upstream's decoder does it.

    Args:
        wanted: ascending numbers in display order.

    Raises:
        DecodeError: one of them cannot be decoded.

    Source: Video-LLaMA 64888c0 with decord 0.6.0: FFmpeg's scale filter from YUV, bilinear. Stills: PIL, bicubic.
    """
    if info.kind == "image":
        yield Frame(0, 0.0, _picture(info.path, size))
        return
    left = deque(wanted)
    for seek in (True, False):  # where seeks land late, the rest is read from the start
        if left:
            yield from _decoded(info, left, size, seek=seek and info._pts is not None)
    if left:
        raise DecodeError(f"{info.path}: picture {left[0]} cannot be decoded; it may be damaged, get the file again")


def read_sound(info: MediaInfo) -> Iterator[Samples]:
    """All sound, block by block: every channel at the file's own rate, in [-1, 1], gaps closed as upstream does.

    Raises:
        DecodeError: it cannot be decoded, or changes its rate or channels on the way.
    """
    form: tuple[int, int] | None = None
    done = 0
    with opened(info.path) as container:
        stream = container.streams.best("audio")
        assert stream is not None
        for frame in container.decode(stream):
            data = _channels(frame)
            form = form or (frame.sample_rate, len(data))
            if form != (frame.sample_rate, len(data)):
                raise DecodeError(
                    f"{info.path}: its sound changes from {form[0]} Hz, {form[1]} channels to {frame.sample_rate} Hz, "
                    f"{len(data)} channels; convert it to one form, or use --no-audio"
                )
            yield Samples(info.sound_start + done / frame.sample_rate, data, frame.sample_rate)
            done += data.shape[1]


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """An open file whose failures, also those met while reading, are ours."""
    try:
        with av.open(path) as container:
            yield container
    except av.error.FFmpegError as error:
        reason = (error.strerror or str(error)).lower()
        raise DecodeError(
            f"{path}: cannot be decoded ({reason}); it may be cut or no media file, get it again"
        ) from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise MediaError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; give a video, sound or picture")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise MediaError(f"{path}: is empty; get the file again")
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}; check its permissions") from error


def _is_picture(path: Path) -> bool:
    try:
        with Image.open(path, formats=_PICTURES):
            return True
    except UnidentifiedImageError:
        return False
    except (OSError, Image.DecompressionBombError) as error:
        raise DecodeError(f"{path}: not a usable picture ({error}); get it again") from error


def _picture(path: Path, size: int) -> NDArray[np.uint8]:
    try:
        with Image.open(path, formats=_PICTURES) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for damaged files
        raise DecodeError(f"{path}: cannot be decoded ({error}); get the picture again") from error
    return np.asarray(upright.resize((size, size), Image.Resampling.BICUBIC))


def _video_stream(container: InputContainer) -> av.VideoStream | None:
    """The first one that is not the cover of a sound file."""
    covers = av.stream.Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & covers), None)


def _frame_rate(video: av.VideoStream) -> float:
    rate = video.average_rate or video.guessed_rate
    return float(rate) if rate else 25.0  # FFmpeg's own assumption where a file does not say


def _demux(container: InputContainer, streams: list[av.VideoStream | av.AudioStream]) -> dict[int, _Packets]:
    found = {stream.index: _Packets() for stream in streams}
    for packet in container.demux(streams):
        if not packet.size or packet.is_discard:
            continue
        if packet.is_corrupt:
            raise DecodeError(f"{container.name}: ends in the middle of a packet; it was cut, get the file again")
        packets = found[packet.stream.index]
        packets.pts.append(packet.pts)
        if packet.pts is not None:
            packets.end = max(packets.end, packet.pts + (packet.duration or 0))
            if packet.is_keyframe:
                packets.keyframes.append(packet.pts)
    return found


def _check_whole(container: InputContainer, found: dict[int, _Packets]) -> None:
    if container.format.name not in _WITH_LENGTH:
        return
    for stream in container.streams:
        packets, stated = found.get(stream.index), _stated_seconds(stream)
        if packets is None or stated is None or stream.time_base is None:
            continue
        seconds = (packets.end - (stream.start_time or 0)) * float(stream.time_base)
        if seconds < stated - _CUT_SECONDS:
            raise DecodeError(
                f"{container.name}: says it has {stated:.1f} s of {stream.type} and ends after {max(seconds, 0):.1f} s; "
                "it was cut, get the file again"
            )


def _stated_seconds(stream: av.stream.Stream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION", "").split(":")  # Matroska
    if len(tag) != 3:
        return None
    try:
        return int(tag[0]) * 3600 + int(tag[1]) * 60 + float(tag[2])
    except ValueError:
        return None


def _distinct(pts: list[int | None]) -> NDArray[np.int64] | None:
    """In display order, if every picture has a time of its own."""
    known = np.array(sorted(value for value in pts if value is not None), np.int64)
    return known if len(known) == len(pts) and (np.diff(known) > 0).all() else None


def _first_sound(path: Path) -> float | None:
    """Seconds on the file's clock at which sound begins, after what the encoder put before it was dropped."""
    try:
        with opened(path) as container:
            return next((frame.time for frame in container.decode(audio=0)), None)
    except DecodeError:
        return None  # said when the sound is read, if it is


def _decoded(info: MediaInfo, left: deque[int], size: int, *, seek: bool) -> Iterator[Frame]:
    """Takes from `left` what it yields; stops early where a picture is not found in its place."""
    numbers = None if info._pts is None else {int(pts): number for number, pts in enumerate(info._pts)}
    scaler = _Scaler(size)
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
            number = count if numbers is None else numbers.get(-1 if frame.pts is None else frame.pts, -1)
            count += 1
            position = max(position, number)
            if number > left[0]:
                return
            if number == left[0]:
                yield Frame(left.popleft(), float(info.frame_times[number]), scaler(frame))


def _keyframe_before(info: MediaInfo, number: int) -> int:
    """The number of the last picture at or before that one from which decoding can start."""
    assert info._pts is not None
    place = np.searchsorted(info._keyframes, info._pts[number], "right") - 1
    return int(np.searchsorted(info._pts, info._keyframes[place])) if place >= 0 else 0


class _Scaler:
    """swscale's single bilinear pass from the decoder's format to RGB, bit for bit upstream's."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._form: tuple[int, int, str] | None = None
        self._graph = Graph()

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        form = (frame.width, frame.height, frame.format.name)
        if form != self._form:
            self._form, self._graph = form, self._made(frame)
        self._graph.push(frame)
        scaled = self._graph.pull()
        assert isinstance(scaled, av.VideoFrame)
        pixels: NDArray[np.uint8] = np.rot90(scaled.to_ndarray(), round(frame.rotation / 90))
        return np.ascontiguousarray(pixels)

    def _made(self, frame: av.VideoFrame) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        scale = graph.add("scale", f"{self._size}:{self._size}:flags=bilinear")
        rgb = graph.add("format", "rgb24")
        graph.link_nodes(source, scale, rgb, graph.add("buffersink")).configure()
        return graph


def _channels(frame: av.AudioFrame) -> Float32:
    """float32 (channels, n), integers over their largest magnitude."""
    data = frame.to_ndarray()
    if frame.format.is_packed:
        data = data.reshape(-1, frame.layout.nb_channels).T
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(data.dtype, np.integer):
        return (data / -float(np.iinfo(data.dtype).min)).astype(np.float32)
    return np.ascontiguousarray(data, np.float32)
