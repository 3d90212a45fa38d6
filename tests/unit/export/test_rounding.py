from __future__ import annotations

import numpy as np
import pytest

from vllama.export.rounding import even_factor, round_tokens, round_weight, weight_scale

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((300, 7)).astype(np.float32)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e5])
def test_steps_of_weights_are_within_63(wide: bool, size: float) -> None:
    weight = WEIGHT * np.float32(size)
    weight[:, 3] = 0
    steps = round_weight(weight, wide=wide)
    assert steps.dtype == np.int8
    assert np.abs(steps.astype(int)).max() == 63
    assert not steps[:, 3].any()


def test_pairs_of_products_never_leave_sixteen_bits() -> None:
    worst = 255 * int(np.abs(round_weight(WEIGHT).astype(int)).max()) * 2
    assert worst <= np.iinfo(np.int16).max


def test_narrow_weights_are_within_half_a_step_and_wide_ones_within_a_hundredth() -> None:
    scale = weight_scale(WEIGHT)
    assert np.abs(round_weight(WEIGHT) * scale - WEIGHT).max() <= 0.501 * scale.max()
    first, second = np.split(round_weight(WEIGHT, wide=True) * weight_scale(WEIGHT, wide=True), 2, 1)
    np.testing.assert_array_equal(first, round_weight(WEIGHT) * scale)
    assert np.abs(first + second - WEIGHT).max() <= 0.005 * scale.max()


def test_tokens_are_rounded_by_their_own_largest() -> None:
    x = RNG.standard_normal((4, 9)).astype(np.float32)
    x[1] *= 1000
    x[2] = 0
    rounded = round_tokens(x)
    for row in range(4):
        np.testing.assert_array_equal(rounded[row : row + 1], round_tokens(x[row : row + 1]))
        assert np.abs(rounded[row] - x[row]).max() <= 0.501 / 127 * np.abs(x[row]).max()


def test_factor_evens_out_a_large_channel_and_leaves_even_ones_alone() -> None:
    even = np.ones(8, np.float32)
    np.testing.assert_allclose(even_factor(even, even), 1)
    large = even.copy()
    large[2] = 50
    factor = even_factor(large, np.reciprocal(large))
    np.testing.assert_allclose(factor[2] / factor[0], 50, rtol=1e-5)
    assert np.prod(factor) == pytest.approx(1, rel=1e-4)
    assert np.isfinite(even_factor(np.zeros(8, np.float32), np.zeros(8, np.float32))).all()
