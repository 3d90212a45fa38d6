"""A long span in pieces: which seconds each piece covers, and the words that introduce it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from .errors import ContextOverflowError
from .times import clock
from .types import Span

_TENTHS_BELOW = 2.0  # seconds; shorter pieces need more than whole seconds to be told apart


@dataclass(frozen=True)
class Segment:
    """One piece: its seconds of the clip, and what stands in the prompt before its media."""

    span: Span
    intro: str


def plan_segments(span: Span, frames: int, num_frames: int, most: int | None = None) -> tuple[Segment, ...]:
    """Cut a span into pieces of equal length, as many as have `num_frames` frames each.

    Args:
        span: seconds from the start of the clip; a `Span.last` is made such by `Span.within`.
        frames: how many are known of the span.
        most: pieces at the most, as `segments_that_fit` tells; None for any number.

    Returns:
        At least one, in order of time, without gaps: each ends where the next one starts.
    """
    assert 0.0 <= span.start <= span.end, span
    assert most is None or most >= 1, most
    count = max(1, frames // num_frames)
    if most is not None:
        count = min(count, most)
    length = (span.end - span.start) / count
    edges = [*(span.start + number * length for number in range(count)), span.end]
    texts = [clock(edge if length < _TENTHS_BELOW else math.floor(edge + 0.5)) for edge in edges]
    return tuple(
        Segment(Span(*seconds), f"From {words[0]} to {words[1]}: ")
        for seconds, words in zip(pairwise(edges), pairwise(texts), strict=True)
    )


def segments_that_fit(budget: int, tokens: int) -> int:
    """How many pieces of `tokens` each fit a budget of tokens.

    Raises:
        ContextOverflowError: not even one.
    """
    if budget < tokens:
        raise ContextOverflowError(
            f"one segment needs {tokens} tokens and {max(budget, 0)} are free; "
            "ask a shorter question, with --long frames, or use a larger --ctx-size"
        )
    return budget // tokens
