"""A clip as a real file: H.264 and AAC in mp4."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from vllama.runtime.types import Float32

from .clips import things_at
from .draw import paint, random_style
from .sound import track
from .world import Clip

_BATCH = 8  # frames drawn at once
_AUDIO_BITRATE = 96000  # bit/s
_SHORT = 56  # Style.soft counts in this fraction of the shorter side


def render(
    clip: Clip,
    path: Path,
    *,
    width: int = 320,
    height: int = 240,
    fps: int = 24,
    sample_rate: int = 44100,
    channels: int = 2,
    crf: int = 23,
    sound: bool = True,
    gain: float = 1.0,
) -> None:
    """Write a clip to `path`; the look, the voices and the loudness follow from the clip's seed.

    Args:
        width, height: pixels, even.
        crf: of H.264, 0 (lossless) to 51.
        sound: whether there is a sound track at all.
        gain: factor on the sound, on top of the clip's own loudness.
    """
    count = max(1, round(clip.duration * fps))
    times = [number / count for number in range(count)]
    pictures = (
        pixels
        for first in range(0, count, _BATCH)
        for pixels in draw(clip, times[first : first + _BATCH], width, height)
    )
    samples = np.tile(track(clip, sample_rate) * gain, (channels, 1)) if sound else None
    write_mp4(path, pictures, fps, samples, sample_rate, crf=crf)


def write_mp4(
    path: Path,
    pictures: Iterable[np.ndarray],
    fps: int,
    samples: np.ndarray | None,
    sample_rate: int,
    *,
    crf: int = 23,
) -> None:
    """Write pictures uint8 (height, width, 3) and sound (n,) or (channels, n) to a file."""
    with av.open(str(path), "w", format="mp4") as container:
        video = voice = None
        sound = None if samples is None else np.atleast_2d(samples).astype(np.float32)
        for pixels in pictures:
            if video is None:
                video = container.add_stream("libx264", rate=fps)
                video.height, video.width, video.pix_fmt = pixels.shape[0], pixels.shape[1], "yuv420p"
                video.options = {"crf": str(crf), "preset": "veryfast"}
                video.thread_count = 1
                if sound is not None:
                    voice = container.add_stream("aac", rate=sample_rate, layout=_layout(sound))
                    voice.bit_rate = _AUDIO_BITRATE
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        assert video is not None, "a file needs a picture"
        container.mux(video.encode(None))
        if voice is not None and sound is not None:
            _add_sound(container, voice, sound, sample_rate)


def draw(clip: Clip, times: list[float], width: int, height: int) -> np.ndarray:
    """Pictures at fractions of the duration: uint8 (len(times), height, width, 3)."""
    generator = torch.Generator().manual_seed(clip.seed)
    style = random_style(1, generator)
    sharp = torch.rand(1, generator=generator)
    style.soft.mul_(sharp).clamp_(min=1.2 * _SHORT / min(width, height))
    things = things_at(clip, times)
    aspect = torch.full((len(times),), width / height)
    pixels = paint(things, style.repeat(len(times)), aspect, height, width)[0]
    shaken = pixels * 255 + torch.rand(pixels.shape, generator=generator)  # dither: slopes of dark grey band otherwise
    return shaken.clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def _layout(sound: np.ndarray) -> str:
    return "mono" if len(sound) == 1 else "stereo"


def _add_sound(container: av.container.OutputContainer, voice: av.AudioStream, sound: Float32, rate: int) -> None:
    size = 1024
    for first in range(0, sound.shape[1], size):
        part = np.ascontiguousarray(sound[:, first : first + size])
        frame = av.AudioFrame.from_ndarray(part, "fltp", _layout(sound))
        frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
        container.mux(voice.encode(frame))
    container.mux(voice.encode(None))
