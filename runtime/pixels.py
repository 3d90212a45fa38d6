"""Which pictures a question looks at, and their pixels as the vision encoder takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import ShapeError
from .spec import VideoSpec
from .types import Float32, Frame, kind_of


def frame_indices(count: int, length: int) -> list[int]:
    """The pictures of the whole-clip rule: 0, length / count, 2 length / count, ... truncated.

    Args:
        count: pictures asked for. length: pictures of the clip; where it is shorter than count, all of them are taken.

    Source: Video-LLaMA 64888c0, video_llama/processors/video_processor.py, load_video with sampling="uniform". Its
    arithmetic gives one index too many for some counts; here they are always `min(count, length)`.
    """
    taken = min(count, length)
    if not taken:
        return []
    return [int(index) for index in np.arange(0, length, length / taken)[:taken]]


def timestamps(indices: Sequence[int], frame_rate: float) -> str:
    """Times of pictures as upstream writes them into the prompt: "0.0, 0.9, 1.8".

    Args:
        frame_rate: average pictures per second of the clip.
    """
    return ", ".join(str(round(index / frame_rate, 1)) for index in indices)


def pixel_values(frames: Sequence[Frame], spec: VideoSpec) -> Float32:
    """float32 (n, 3, image_size, image_size), normalised per channel.

    Args:
        frames: at least one; pixels uint8 (image_size, image_size, 3), RGB.

    Raises:
        ShapeError: they are not so.
    """
    if not frames:
        raise ShapeError("there is no picture to encode; give at least one")
    shape = (spec.image_size, spec.image_size, 3)
    for pixels in (frame.pixels for frame in frames):
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != shape:
            raise ShapeError(
                f"a picture is {kind_of(pixels)} and the encoder takes uint8 {shape}, RGB; stretch it to that"
            )
    pixels = np.stack([frame.pixels for frame in frames])
    mean, std = (np.array(values, np.float32) for values in (spec.normalise.mean, spec.normalise.std))
    scaled = (pixels.astype(np.float32) / np.float32(255.0) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
