"""An open media file: its failures are ours, and which of its streams are seen and heard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer

from .errors import DecodeError


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
        raise DecodeError(f"{path}: {what}cannot be decoded ({reason(error)}); {then}") from error


def reason(error: av.error.FFmpegError) -> str:
    """What FFmpeg says of a failure."""
    said = (error.strerror or str(error)).lower()
    return "damaged data" if said.startswith("error number") else said  # one that FFmpeg has no words for


def video_stream(container: InputContainer) -> av.VideoStream | None:
    """The one FFmpeg likes best, if it is not the cover of a sound file; one that can be decoded, if there is one."""
    covers = av.stream.Disposition.attached_pic
    pictures = [
        stream
        for stream in (container.streams.best("video"), *container.streams.video)
        if isinstance(stream, av.VideoStream) and not stream.disposition & covers
    ]
    return next(filter(_is_decodable, pictures), pictures[0] if pictures else None)


def audio_stream(container: InputContainer) -> av.AudioStream | None:
    """The one FFmpeg likes best; of those that can be decoded, if there are some."""
    best, able = container.streams.best("audio"), audio_tracks(container)
    assert best is None or isinstance(best, av.AudioStream)
    return best if best in able or not able else able[0]


def audio_tracks(container: InputContainer) -> list[av.AudioStream]:
    """Those that can be decoded: FFmpeg knows no decoder of what phones record beside their stereo sound."""
    return [stream for stream in container.streams.audio if _is_decodable(stream)]


def _is_decodable(stream: av.VideoStream | av.AudioStream) -> bool:
    return stream.codec_context is not None
