"""What cameras, scalers and codecs do to a picture, as cheap batched tensor arithmetic.

A real H.264 in the training loop buys nothing that this does not (chroma at half resolution, block noise, blur).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vllama.runtime.spec import ModelSpec

from .draw import sometimes, uniform


def film(pictures: Tensor, generator: torch.Generator, shots: int = 1) -> Tensor:
    """Pictures (n, 3, 56, 56), 0 to 1, as they come back from a file.

    shots: that many pictures in a row are one clip: exposure, colour and sharpness are its own, noise is the picture's.
    """
    n = len(pictures)
    clips = n // shots

    def shared(low: float, high: float, *shape: int) -> Tensor:
        return uniform(generator, low, high, clips, *shape).repeat_interleave(shots, 0)[
            (...,) + (None,) * (3 - len(shape))
        ]

    gain = torch.exp(shared(-0.22, 0.18)) * torch.exp(shared(-0.05, 0.05, 3))
    x = (pictures * gain + shared(-0.03, 0.05)).clamp(1e-3, 1.0) ** torch.exp(shared(-0.18, 0.18))
    x = _blur(x, shared(0.0, 0.2), shared(0.0, 0.2))
    x = _coarse_chroma(x, shared(0.0, 1.0))
    noise = shared(0.0, 1.0) ** 2 * 0.04 * torch.randn(x.shape, generator=generator)
    for size in (4, 8):
        blocks = torch.randn(n, 1, 56 // size, 56 // size, generator=generator)
        amount = shared(0.0, 1.0) ** 2 * 0.02
        noise = noise + amount * blocks.repeat_interleave(size, -1).repeat_interleave(size, -2)
    return (x + noise).clamp(0.0, 1.0)


def mirror(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture left-right swapped half of the time; only for pictures without labels of place."""
    flip = sometimes(generator, 0.5, len(pictures))[:, None, None, None]
    return pictures * (1 - flip) + pictures.flip(-1) * flip


def normalised(pixels: Tensor, spec: ModelSpec) -> Tensor:
    """(..., 3, h, w), 0 to 1 -> pixel_values."""
    constants = spec.video.normalise
    mean, std = (torch.tensor(triple)[:, None, None] for triple in (constants.mean, constants.std))
    return (pixels - mean) / std


def _blur(x: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Three taps (a, 1 - 2a, a) on each axis."""
    p = functional.pad(x, (1, 1, 0, 0), mode="replicate")
    x = x + across * (p[..., :-2] + p[..., 2:] - 2 * x)
    p = functional.pad(x, (0, 0, 1, 1), mode="replicate")
    return x + down * (p[..., :-2, :] + p[..., 2:, :] - 2 * x)


def _coarse_chroma(x: Tensor, amount: Tensor) -> Tensor:
    """Colour at half the resolution of the brightness."""
    luma = (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    chroma = x - luma
    coarse = functional.avg_pool2d(chroma, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
    return luma + chroma + amount * (coarse - chroma)
