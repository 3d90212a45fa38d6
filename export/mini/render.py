"""A clip as a real file: H.264 and AAC in mp4."""

from __future__ import annotations

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
    audio_bitrate: int = 96000,
    sound: bool = True,
    gain: float = 1.0,
) -> None:
    """Write a clip to `path`; the look, the voices and the loudness follow from the clip's seed.

    Args:
        width, height: pixels, even.
        crf: of H.264, 0 (lossless) to 51.
        audio_bitrate: bit/s.
        sound: whether there is a sound track at all.
        gain: factor on the sound, on top of the clip's own loudness.
    """
    with av.open(str(path), "w", format="mp4") as container:
        pictures = container.add_stream("libx264", rate=fps)
        pictures.width, pictures.height, pictures.pix_fmt = width, height, "yuv420p"
        pictures.options = {"crf": str(crf), "preset": "veryfast"}
        pictures.thread_count = 1
        voice = None
        if sound:
            voice = container.add_stream("aac", rate=sample_rate, layout="mono" if channels == 1 else "stereo")
            voice.bit_rate = audio_bitrate
        count = max(1, round(clip.duration * fps))
        for first in range(0, count, _BATCH):
            for pixels in draw(clip, [n / count for n in range(first, min(first + _BATCH, count))], width, height):
                container.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(pictures.encode(None))
        if voice is not None:
            _add_sound(container, voice, track(clip, sample_rate) * gain, sample_rate, channels)


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


def _add_sound(
    container: av.container.OutputContainer, voice: av.AudioStream, samples: Float32, rate: int, channels: int
) -> None:
    size = 1024
    for first in range(0, len(samples), size):
        part = np.tile(samples[None, first : first + size], (channels, 1)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), "fltp", "mono" if channels == 1 else "stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
        container.mux(voice.encode(frame))
    container.mux(voice.encode(None))
