"""The arithmetic of 8 bits: weights within +-63 with a scale per output, activations with a scale per token.

Without VNNI, x86 adds pairs of uint8 * int8 products in a saturating int16, and 255 * 63 * 2 is the most that fits.
Weights up to 127 would be right on the machine they were tested on and silently wrong on another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vllama.runtime.types import Float32

WEIGHT_MAX = 63
ACTIVATION_MAX = 127
_FULL_MAX = 127
SMALLEST_SCALE = 1e-12  # a row of zeros stays a row of zeros
_STRENGTH = (
    0.4  # of smoothing: 0 leaves the weights as they are, 1 makes the activations even; weights have fewer steps
)
_DEAD = 1e-5  # a channel below it is as good as none

Int8 = NDArray[np.int8]


def weight_scale(weight: Float32, *, wide: bool = False) -> Float32:
    """(K, N) -> the size of a step of each output, (N,); wide: (2 N,), then of what the first rounding leaves."""
    scale = (np.maximum(np.abs(weight).max(0), SMALLEST_SCALE) / WEIGHT_MAX).astype(np.float32)
    return np.concatenate((scale, scale / np.float32(2 * WEIGHT_MAX))) if wide else scale  # at most half a step is left


def round_weight(weight: Float32, *, wide: bool = False) -> Int8:
    """(K, N) -> steps within +-63; wide: (K, 2 N), beside them the steps of what they leave, 14 bits together."""
    outputs, scale = weight.shape[1], weight_scale(weight, wide=wide)
    first = _steps(weight, scale[:outputs])
    if not wide:
        return first
    return np.concatenate((first, _steps(weight - first * scale[:outputs], scale[outputs:])), 1)


def full_scale(weight: Float32) -> NDArray[np.float16]:
    """(K, N) -> the size of a step of each output, (N,), where all 8 bits are used: no product is made of them."""
    smallest = float(np.finfo(np.float16).tiny)
    scale: NDArray[np.float16] = np.maximum(np.abs(weight).max(0) / _FULL_MAX, smallest).astype(np.float16)
    return scale


def round_full(weight: Float32) -> Int8:
    """(K, N) -> steps of `full_scale` within +-127."""
    steps: Float32 = np.rint(weight / full_scale(weight).astype(np.float32))
    return steps.clip(-_FULL_MAX, _FULL_MAX, out=steps).astype(np.int8)


def round_tokens(x: Float32) -> Float32:
    """(n, K) as it is after rounding to 8 bits with a scale per row."""
    largest = np.maximum(np.abs(x).max(1, keepdims=True), SMALLEST_SCALE)
    rounded: Float32 = np.rint(x / largest * ACTIVATION_MAX) * (largest / ACTIVATION_MAX)
    return rounded


def even_factor(activations: Float32, weights: Float32) -> Float32:
    """What to divide each channel of an activation by, so that both it and the weights can be rounded well.

    Args:
        activations: (K,), the largest of each channel. weights: (K,), the largest of each, relative to its output's.

    Returns:
        (K,), with a geometric mean of one.
    """
    even = np.maximum(activations, _DEAD) ** _STRENGTH / np.maximum(weights, _DEAD) ** (1 - _STRENGTH)
    factor: Float32 = (even / np.exp(np.log(even).mean())).astype(np.float32)
    return factor


def _steps(weight: Float32, scale: Float32) -> Int8:
    steps: Float32 = np.rint(weight / scale)
    return steps.clip(-WEIGHT_MAX, WEIGHT_MAX, out=steps).astype(np.int8)
