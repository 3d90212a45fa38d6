"""The sound of a file as it was recorded: block by block, and how much there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer

from .container import audio_stream, opened, reason
from .errors import DecodeError
from .types import Float32

_MAX_SAMPLE_RATE = 1_000_000
_GAP_SECONDS = (0.1, 3600.0)  # less is rounding, or a clock that drifts; more is a clock that was set
_TOLERANT = ("mpegts", "mpeg", "mp3")  # made to be cut and joined anywhere: every player goes on behind what is damaged
_AUDIBLE = 1e-3  # of full scale
_CONVERT = "convert it, or use --no-audio"
_HOW = "; to convert: ffmpeg -i FILE -c:v copy NEW.mkv"


@dataclass
class Heard:
    """What reading the sound of a file has found out about it.

    damaged: seconds that are heard as silence. first, others: whether something sounds in that channel, in those.
    """

    damaged: float = 0.0
    first: bool = False
    others: bool = False
    _told: set[str] = field(default_factory=set)

    def found(self, data: Float32) -> None:
        """Take note of a block (channels, n)."""
        self.first = self.first or bool((np.abs(data[:1]) > _AUDIBLE).any())
        self.others = self.others or bool((np.abs(data[1:]) > _AUDIBLE).any())

    def notes(self) -> list[str]:
        """What a listener should know; each is told once."""
        found = []
        if self.damaged:
            digits = 1 if self.damaged >= 1.0 else 2
            found.append(f"{self.damaged:.{digits}f} s of its sound are damaged and heard as silence")
        if self.others and not self.first:
            found.append(
                "only the first channel of its sound is heard, which is silent, and another is not; "
                "to hear that: ffmpeg -i FILE -c:v copy -ac 1 NEW.mkv"
            )
        new = [text for text in found if text not in self._told]
        self._told.update(new)
        return new


@dataclass(frozen=True, eq=False)
class Block:
    """Some sound; decoded, and not yet converted.

    first: number of its first sample, counted from the first of the file. count: samples. rate: Hz.
    """

    path: Path
    first: int
    count: int
    rate: int
    channels: int
    frame: av.AudioFrame | None  # None: silence
    heard: Heard

    def data(self) -> Float32:
        """float32 (channels, count), in [-1, 1]; channels that come and go on the way are silent where they lack.

        Raises:
            DecodeError: it holds what is no number.
        """
        made = np.zeros((self.channels, self.count), np.float32)
        if self.frame is not None:
            data = _channels(self.frame)[: self.channels]
            if not np.isfinite(data).all():
                raise DecodeError(f"{self.path}: its sound holds values that are no numbers; {_CONVERT}")
            made[: len(data)] = data
            self.heard.found(made)
        return made


def read_blocks(path: Path, heard: Heard) -> Iterator[Block]:
    """All of the sound, silence where the file has a gap, or where a broadcast or an MP3 is damaged.

    Upstream closes gaps, and hears all that comes after one too early.

    Raises:
        DecodeError: it cannot be decoded, or changes its rate on the way.
    """
    rate, channels, done, damaged = 0, 0, 0, 0.0
    begun: float | None = None
    for frame, lost in _decoded(path):
        gap = lost
        if frame is not None:
            if not rate:
                rate, channels = frame.sample_rate, frame.layout.nb_channels
            _check(path, frame, rate, channels, done)
            if frame.time is not None:
                begun = frame.time if begun is None else begun
                gap = _gap(frame.time - begun - done / rate, lost)
        if lost:
            damaged += gap
            heard.damaged = max(heard.damaged, damaged)
        left = round(gap * rate)
        while left > 0:  # a second at most at a time
            yield Block(path, done, min(left, rate), rate, channels, None, heard)
            done, left = done + min(left, rate), left - rate
        if frame is not None:
            yield Block(path, done, frame.samples, rate, channels, frame, heard)
            done += frame.samples


def first_sound(path: Path) -> float | None:
    """Seconds on the file's clock at which sound begins, after what the encoder put before it was dropped."""
    try:
        return next((frame.time for frame, _ in _decoded(path) if frame is not None), None)
    except DecodeError:
        return None  # said when the sound is read, if it is


def count_by_clock(path: Path) -> tuple[int, int] | None:
    """Samples and their rate (Hz), found at the two ends; for packets of one length that follow without a gap.

    Returns:
        None: the clock does not count samples, or an end cannot be decoded.
    """
    try:
        with opened(path) as container:
            return _between_ends(container)
    except DecodeError:
        return None  # said where all of it is decoded


def _between_ends(container: InputContainer) -> tuple[int, int] | None:
    stream = audio_stream(container)
    assert stream is not None
    first = next(container.decode(stream), None)
    if first is None or first.pts is None or stream.time_base is None or stream.time_base * first.sample_rate != 1:
        return None
    end = first.pts + first.samples
    container.seek((stream.start_time or 0) + (stream.duration or 0), stream=stream)
    for frame in container.decode(stream):
        if frame.pts is None or frame.sample_rate != first.sample_rate:
            return None
        end = frame.pts + frame.samples
    return end - first.pts, first.sample_rate


def _decoded(path: Path) -> Iterator[tuple[av.AudioFrame | None, float]]:
    """Frames, and the seconds that are damaged before each; those at the end come without a frame."""
    with opened(path, "its sound ", _CONVERT + _HOW) as container:
        stream = audio_stream(container)
        assert stream is not None
        tolerant, lost, begun = container.format.name in _TOLERANT, 0.0, False
        refused: DecodeError | None = None
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if not tolerant:
                    is_last = not any(later.size for later in container.demux(stream))
                    raise _refused(path, container, packet, error, is_last=is_last) from error
                refused = refused or _refused(path, container, packet, error)
                lost += float((packet.duration or 0) * (packet.time_base or 0))
                continue
            for frame in frames:
                assert isinstance(frame, av.AudioFrame)
                yield frame, lost if begun else 0.0
                lost, begun = 0.0, True
        if refused is not None and not begun:
            raise refused
        if lost:
            yield None, lost


def _refused(
    path: Path,
    container: InputContainer,
    packet: av.Packet[Any],
    error: av.error.FFmpegError,
    *,
    is_last: bool = False,
) -> DecodeError:
    time = packet.pts * packet.time_base if packet.pts is not None and packet.time_base is not None else None
    where = "" if time is None else f", at {float(time) - (container.start_time or 0) / av.time_base:.1f} s"
    then = f"it may be cut: get the file again, {_CONVERT}" if is_last else _CONVERT
    return DecodeError(f"{path}: its sound cannot be decoded ({reason(error)}{where}); {then}{_HOW}")


def _check(path: Path, frame: av.AudioFrame, rate: int, channels: int, done: int) -> None:
    if frame.sample_rate > _MAX_SAMPLE_RATE:
        raise DecodeError(
            f"{path}: its sound has {frame.sample_rate} Hz, more than {_MAX_SAMPLE_RATE}; "
            "convert it to 48000 Hz, or use --no-audio"
        )
    if frame.sample_rate != rate:  # where only the channels change, the first one goes on
        raise DecodeError(
            f"{path}: its sound changes after {done / rate:.1f} s from {rate} Hz, {channels} channels to "
            f"{frame.sample_rate} Hz, {frame.layout.nb_channels} channels; convert it to one form, or use --no-audio"
            f"{_HOW}"
        )


def _gap(gap: float, lost: float) -> float:
    """Seconds of silence before a frame that comes so many later than it should."""
    if lost:
        return gap if 0.0 < gap <= _GAP_SECONDS[1] else lost
    return gap if _GAP_SECONDS[0] <= gap <= _GAP_SECONDS[1] else 0.0


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
