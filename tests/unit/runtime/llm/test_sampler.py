from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vllama.runtime.errors import SpecError
from vllama.runtime.llm.sampler import Sampler, sampling_probabilities
from vllama.runtime.spec import Sampling

PLAIN = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=8)
LOGITS = np.log(np.array([0.1, 0.4, 0.3, 0.2], np.float32))


def test_plain_sampling_is_the_softmax() -> None:
    np.testing.assert_allclose(sampling_probabilities(LOGITS, PLAIN), [0.1, 0.4, 0.3, 0.2], rtol=1e-6)


def test_temperature_zero_takes_the_best_token_whatever_else_is_set() -> None:
    greedy = Sampling(temperature=0, top_p=0.5, top_k=2, max_tokens=8)
    np.testing.assert_array_equal(sampling_probabilities(LOGITS, greedy), [0, 1, 0, 0])


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 9e-6])
def test_tiny_temperature_takes_the_best_token(temperature: float) -> None:
    cold = replace(PLAIN, temperature=temperature)
    np.testing.assert_array_equal(sampling_probabilities(LOGITS, cold), [0, 1, 0, 0])
    assert Sampler(cold, 0, start_token=0).draw(LOGITS) == 1


def test_tokens_that_tie_share_down_to_the_least_temperature_that_divides() -> None:
    for temperature, likely in ((1e-5, [0.5, 0.5]), (9e-6, [1.0, 0.0])):
        cold = replace(PLAIN, temperature=temperature)
        assert sampling_probabilities(np.ones(2, np.float32), cold).tolist() == likely


@pytest.mark.parametrize(("temperature", "penalty"), [(1e-5, 1.0), (1e300, 1.0), (1.0, 0.001), (1.0, 1000.0)])
def test_the_ends_of_the_ranges_give_probabilities(temperature: float, penalty: float) -> None:
    sampling = replace(PLAIN, temperature=temperature, repetition_penalty=penalty)
    found = sampling_probabilities(np.array([-90.0, 90.0, 0.0], np.float32), sampling, previous=[0, 1])
    assert found.sum() == pytest.approx(1.0)


def test_temperature_comes_before_top_p() -> None:
    hot = replace(PLAIN, temperature=100.0, top_p=0.6)
    assert (sampling_probabilities(LOGITS, hot) > 0).tolist() == [False, True, True, True]


def test_top_k_keeps_tokens_that_tie_with_the_last_one() -> None:
    logits = np.array([2, 1, 1, 0], np.float32)
    assert (sampling_probabilities(logits, replace(PLAIN, top_k=2)) > 0).tolist() == [True, True, True, False]


def test_of_top_k_one_the_best_token_is_left() -> None:
    assert (sampling_probabilities(LOGITS, replace(PLAIN, top_k=1)) > 0).tolist() == [False, True, False, False]


def test_top_k_larger_than_the_vocabulary_keeps_all() -> None:
    np.testing.assert_allclose(sampling_probabilities(LOGITS, replace(PLAIN, top_k=50)), [0.1, 0.4, 0.3, 0.2])


def test_top_p_keeps_the_token_that_crosses_it_and_never_loses_the_best() -> None:
    crossed = sampling_probabilities(LOGITS, replace(PLAIN, top_p=0.65))
    np.testing.assert_allclose(crossed, [0, 4 / 7, 3 / 7, 0], rtol=1e-6)
    assert sampling_probabilities(LOGITS, replace(PLAIN, top_p=1e-20)).tolist() == [0, 1, 0, 0]


def test_repetition_penalty_counts_a_token_once_and_pushes_both_signs_down() -> None:
    logits = np.array([-1, 2, 0.5, 1], np.float32)
    penalised = sampling_probabilities(logits, replace(PLAIN, repetition_penalty=2.0), previous=[0, 1, 1])
    np.testing.assert_allclose(np.log(penalised / penalised[2]), [-2.5, 0.5, 0, 0.5], atol=1e-6)


def test_the_logits_given_are_left_alone() -> None:
    logits = LOGITS.copy()
    sampling_probabilities(logits, replace(PLAIN, temperature=0.5, repetition_penalty=1.5), previous=[1])
    np.testing.assert_array_equal(logits, LOGITS)


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others() -> None:
    def drawn(seed: int) -> list[int]:
        sampler = Sampler(PLAIN, seed, start_token=0)
        return [sampler.draw(LOGITS) for _ in range(64)]

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    sampler = Sampler(PLAIN, 0, start_token=0)
    counts = np.bincount([sampler.draw(LOGITS) for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, [0.1, 0.4, 0.3, 0.2], atol=0.03)


def test_the_sampler_penalises_the_start_token_and_what_it_drew() -> None:
    greedy = Sampling(temperature=0, top_p=1.0, top_k=0, max_tokens=8, repetition_penalty=100.0)
    sampler = Sampler(greedy, 0, start_token=3)
    assert [sampler.draw(np.array([1, 2, 3, 4], np.float32)) for _ in range(3)] == [2, 1, 0]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(SpecError, match="seed is -1"):
        Sampler(PLAIN, -1, start_token=0)
