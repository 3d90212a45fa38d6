"""Whether a picture shows anything new: a few numbers compared, long before an encoder would have to look.

The score is the largest difference between two pictures, of one colour of one of 14 x 14 blocks: the largest, because a
small thing that moves changes few of them; in colour, because two colours may have the same grey; of the mean of a
block, because noise is gone from it. `tests/bench/bench_live_choices.py` measured it on drawn clips of the miniature's
world with the noise of a camera (5 of 255) and JPEG put over them, 4 pictures a second, 1840 pairs: two pictures that
differ by noise alone never score more than 3.3, and pass for still; of those that show a change, 14 % score below 5,
and their features differ by 0.03 (the median; 0.17 at most) of the mean length of a feature, where noise alone makes
0.03. In grey a threshold of 4 would have let 20 % pass, features that differ by 1.09 among them: one thing for another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .timeline import FrameFeature
from .types import Float32

STILL = 5.0  # of 255: what scores less shows nothing new
_BLOCKS = 14  # along each side


class Glance:
    """A picture in 14 x 14 blocks, to be compared with others of the same source.

    Args:
        pixels: uint8 (h, w, 3).
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._blocks = _means(_means(pixels.astype(np.float32), 0), 1)  # (14, 14, 3)

    def change(self, other: Glance) -> float:
        """The largest difference of a block, 0 to 255; from `STILL` on there is something new."""
        return float(np.abs(self._blocks - other._blocks).max())


class Repeats:
    """Pictures of one source in order of time: which of them show what the one that was encoded last shows.

    It is always compared with that one, never with one that took its features: so a slow drift is noticed. One that is
    the same to the bit may stand for it.
    """

    def __init__(self) -> None:
        self._last: tuple[NDArray[np.uint8], Glance, FrameFeature] | None = None

    def find(self, index: int, time: float, pixels: NDArray[np.uint8], *, exactly: bool = False) -> FrameFeature | None:
        """The picture with the features of the one that was encoded last; None: it shows something new.

        Args:
            exactly: only if the two are the same to the bit, for which the encoder would give the same numbers.
        """
        last = self._last  # another thread may forget it at any moment
        if last is None:
            return None
        shown, glance, feature = last
        equal = np.array_equal(shown, pixels)
        if not equal and (exactly or Glance(pixels).change(glance) >= STILL):
            return None
        return FrameFeature(
            index, time, feature.features, of=feature.index if feature.of is None else feature.of, equal=equal
        )

    def encoded(self, pixels: NDArray[np.uint8], feature: FrameFeature) -> None:
        """Compare with this one from now on."""
        self._last = pixels, Glance(pixels), feature

    def forget(self) -> None:
        """Whatever comes next is new."""
        self._last = None


def _means(values: Float32, axis: int) -> Float32:
    """Of `_BLOCKS` equal parts along an axis, to a pixel."""
    size = values.shape[axis]
    edges = np.arange(min(_BLOCKS, size) + 1) * size // min(_BLOCKS, size)
    shape = [1] * values.ndim
    shape[axis] = -1
    sums: Float32 = np.add.reduceat(values, edges[:-1], axis) / np.diff(edges).reshape(shape).astype(np.float32)
    return sums
