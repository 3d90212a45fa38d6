from __future__ import annotations

import numpy as np
import pytest

from vllama.runtime.change import STILL, Glance


def _picture(size: int, place: int, colour: tuple[int, int, int] = (220, 40, 40)) -> np.ndarray:
    pixels = np.full((size, size, 3), 128, np.uint8)
    side = size // 8
    pixels[size // 2 : size // 2 + side, place : place + side] = colour
    return pixels


@pytest.mark.parametrize("size", [28, 56, 100, 224])
def test_noise_is_nothing_new_and_a_small_thing_that_moves_is(size: int) -> None:
    noise = np.random.default_rng(0).normal(0.0, 2.0, (size, size, 3))
    still = _picture(size, size // 4)
    noisy = np.clip(still + noise, 0, 255).astype(np.uint8)
    moved = _picture(size, size // 4 + size // 8)
    assert Glance(still).change(Glance(noisy)) < STILL
    assert Glance(still).change(Glance(moved)) > 2 * STILL


def test_colours_of_the_same_grey_differ() -> None:
    grey = np.array([0.299, 0.587, 0.114])
    red, green = (200, 40, 40), (40, 121, 40)
    assert abs(grey @ red - grey @ green) < 1.0
    assert Glance(_picture(56, 8, red)).change(Glance(_picture(56, 8, green))) > STILL


def test_slow_drift_is_noticed_in_the_end() -> None:
    first = Glance(np.full((56, 56, 3), 100, np.uint8))
    changes = [first.change(Glance(np.full((56, 56, 3), 100 + step, np.uint8))) for step in range(8)]
    assert changes == list(range(8))


def test_pictures_smaller_than_the_blocks_are_compared_by_pixel() -> None:
    black, white = np.zeros((5, 7, 3), np.uint8), np.zeros((5, 7, 3), np.uint8)
    white[4, 6, 2] = 200
    assert Glance(black).change(Glance(white)) == 200.0
