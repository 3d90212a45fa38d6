"""A clip of its own for measuring: moving pictures and a rising tone, of any length."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import av
import numpy as np
from av.codec.codec import UnknownCodecError

from ..errors import BackendUnavailableError

WIDTH, HEIGHT, RATE = 640, 360, 25
_SOUND_RATE = 48_000
# What most videos are; else what every FFmpeg can write.
_CODECS: dict[str, dict[str, str]] = {"libx264": {"preset": "ultrafast"}, "mpeg4": {}}


def write_sample_clip(path: Path, seconds: int) -> None:
    """Write an MP4 of 640x360 at 25 a second, and stereo sound.

    Raises:
        BackendUnavailableError: this FFmpeg can write no video.
    """
    with av.open(path, "w") as container:
        codec = _codec()
        video = cast(av.VideoStream, container.add_stream(codec, RATE, options=_CODECS[codec]))
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", _SOUND_RATE, layout="stereo")
        for index in range(seconds * RATE):
            container.mux(video.encode(av.VideoFrame.from_ndarray(_picture(index), "rgb24")))
        container.mux(video.encode())
        for second in range(seconds):
            container.mux(audio.encode(_tone(second)))
        container.mux(audio.encode())


def _codec() -> str:
    for name in _CODECS:
        try:
            av.Codec(name, "w")
        except UnknownCodecError:
            continue
        return name
    raise BackendUnavailableError(f"this PyAV writes neither of {', '.join(_CODECS)}; install it from a wheel")


def _picture(index: int) -> np.ndarray:
    """Stripes that move, so that no two pictures are alike."""
    x, y = np.arange(WIDTH, dtype=np.int32), np.arange(HEIGHT, dtype=np.int32)[:, None]
    channels = [(x + y + 5 * index) & 255, (2 * y + 0 * x + 3 * index) & 255, (x - y + index) & 255]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _tone(second: int) -> av.AudioFrame:
    time = second + np.arange(_SOUND_RATE) / _SOUND_RATE
    wave = (0.3 * np.sin(2 * np.pi * (200 + 20 * time) * time)).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), "fltp", "stereo")
    frame.sample_rate, frame.pts = _SOUND_RATE, second * _SOUND_RATE
    return frame
