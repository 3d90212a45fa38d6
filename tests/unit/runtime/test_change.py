from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import numpy as np
import pytest

from vllama.runtime.change import STILL, Glance, Repeats
from vllama.runtime.timeline import FrameFeature


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


def _grey(value: int) -> np.ndarray:
    return np.full((56, 56, 3), value, np.uint8)


def test_a_repeat_has_the_features_of_the_last_one_encoded_and_its_own_time() -> None:
    repeats, features = Repeats(), np.zeros((2, 3), np.float16)
    assert repeats.find(0, 0.0, _grey(100)) is None
    repeats.encoded(_grey(100), FrameFeature(0, 0.0, features))
    near = repeats.find(4, 0.4, _grey(102))
    assert near is not None
    assert (near.index, near.time, near.of, near.equal) == (4, 0.4, 0, False)
    assert near.features is features
    same = repeats.find(5, 0.5, _grey(100))
    assert same is not None
    assert same.equal
    assert repeats.find(6, 0.6, _grey(106)) is None  # compared with 100, not with the 102 that was near it
    assert repeats.find(6, 0.6, _grey(100 + round(STILL))) is None
    assert repeats.find(6, 0.6, _grey(99 + round(STILL))) is not None
    repeats.forget()
    assert repeats.find(7, 0.7, _grey(100)) is None


def test_what_a_rule_asks_for_repeats_nothing_but_the_same_to_the_bit() -> None:
    repeats, other = Repeats(), _grey(100)
    repeats.encoded(_grey(100), FrameFeature(0, 0.0, np.zeros((2, 3), np.float16)))
    other[0, 0, 0] += 1
    assert repeats.find(1, 0.1, _grey(100), exactly=True) is not None
    assert repeats.find(1, 0.1, other, exactly=True) is None
    assert repeats.find(1, 0.1, other) is not None


def test_what_is_forgotten_at_any_moment_does_not_stop_the_one_who_compares() -> None:
    def forget_at(number: int, repeats: Repeats) -> Callable[[FrameType, str, object], object]:
        lines = 0

        def trace(frame: FrameType, event: str, argument: object) -> object:
            nonlocal lines
            if event == "line":
                lines += 1
                if lines == number:
                    repeats.forget()
            return trace

        return trace

    before = sys.gettrace()
    for number in range(1, 12):
        repeats = Repeats()
        repeats.encoded(_grey(100), FrameFeature(0, 0.0, np.zeros((2, 3), np.float16)))
        trace = forget_at(number, repeats)
        sys.settrace(lambda frame, event, argument, own=trace: own if frame.f_code.co_name == "find" else None)  # type: ignore[misc]
        try:
            found = repeats.find(1, 0.1, _grey(100))
        finally:
            sys.settrace(before)
        assert found is None or found.of == 0


def test_one_that_is_the_same_to_the_bit_stands_for_the_one_encoded() -> None:
    repeats, features = Repeats(), np.zeros((2, 3), np.float16)
    repeats.encoded(_grey(100), FrameFeature(7, 0.7, features, of=2))
    near = repeats.find(8, 0.8, _grey(102))
    assert near is not None
    assert (near.of, near.equal) == (2, False)
