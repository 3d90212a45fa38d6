"""Pictures that come as arrays; those of files are in `test_media.py`."""

from __future__ import annotations

import gc

import numpy as np

from vllama.runtime.scaling import Stretcher


def test_stretching_pictures_leaves_nothing_for_the_collector() -> None:
    stretch, pixels = Stretcher(64), np.zeros((480, 640, 3), np.uint8)
    stretch(pixels)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            stretch(pixels)
        left = gc.collect()
    finally:
        gc.enable()
    assert left < 20  # a megabyte each otherwise, for as long as the collector likes
