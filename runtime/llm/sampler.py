"""Logits -> the distribution that the next token is drawn from, as the original's library computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import SpecError
from ..spec import Sampling
from ..types import Float32

_GREEDY_BELOW = 1e-5  # of temperature: far below it the division overflows


def sampling_probabilities(logits: Float32, sampling: Sampling, previous: Sequence[int] = ()) -> Float32:
    """What each token is drawn with: repetition penalty, temperature, top-k, top-p, softmax, in this order.

    Tokens that tie with the k-th best stay in, and of the top-p set the token that crosses top_p too. A temperature
    below 1e-5 gives everything to the best token.

    Args:
        logits: (n_vocab,), finite.
        sampling: top_k 0 keeps all tokens.
        previous: ids that the repetition penalty holds down; upstream counts the start token and the answer so far,
            not the prompt.

    Returns:
        (n_vocab,), their sum is 1.

    Source: Video-LLaMA 64888c0, video_llama/conversation/conversation_video.py, Chat.answer, and transformers 4.28.0.
    """
    scores = _penalised(logits.astype(np.float64), sampling.repetition_penalty, previous)
    if sampling.temperature < _GREEDY_BELOW:
        scores[np.arange(scores.size) != scores.argmax()] = -np.inf
        return _softmax(scores).astype(np.float32)
    scores /= sampling.temperature
    if 0 < sampling.top_k < scores.size:
        scores[scores < np.partition(scores, -sampling.top_k)[-sampling.top_k]] = -np.inf
    if sampling.top_p < 1:
        scores[_tail(scores, sampling.top_p)] = -np.inf
    return _softmax(scores).astype(np.float32)


class Sampler:
    """Draws the tokens of one answer; the same seed draws the same tokens.

    Raises:
        SpecError: the seed is negative.
    """

    def __init__(self, sampling: Sampling, seed: int, start_token: int) -> None:
        if seed < 0:
            raise SpecError(f"seed is {seed}; use 0 or more")
        self._sampling = sampling
        self._random = np.random.default_rng(seed)
        self._previous = [start_token]

    def draw(self, logits: Float32) -> int:
        """The next token id."""
        likely = sampling_probabilities(logits, self._sampling, self._previous).astype(np.float64)
        drawn = self._random.choice(likely.size, p=likely / likely.sum())
        self._previous.append(int(drawn))
        return int(drawn)


def _penalised(scores: np.ndarray, penalty: float, previous: Sequence[int]) -> np.ndarray:
    ids = np.unique(np.asarray(previous, np.int64))
    scores[ids] = np.where(scores[ids] < 0, scores[ids] * penalty, scores[ids] / penalty)
    return scores


def _tail(scores: np.ndarray, top_p: float) -> np.ndarray:
    """The ids that together have at most 1 - top_p, the least likely first; never the best one."""
    ascending = np.argsort(scores, kind="stable")[:-1]
    tail: np.ndarray = ascending[np.cumsum(_softmax(scores)[ascending]) <= 1 - top_p]
    return tail


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    probabilities: np.ndarray = powers / powers.sum()
    return probabilities
