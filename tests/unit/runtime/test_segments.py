from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.runtime.errors import ContextOverflowError
from vllama.runtime.segments import Segment, plan_segments, segments_that_fit
from vllama.runtime.types import Span


def test_pieces_are_of_equal_length_and_introduced_by_their_times() -> None:
    assert plan_segments(Span(0.0, 36.0), 24, 8) == (
        Segment(Span(0.0, 12.0), "From 0:00 to 0:12: "),
        Segment(Span(12.0, 24.0), "From 0:12 to 0:24: "),
        Segment(Span(24.0, 36.0), "From 0:24 to 0:36: "),
    )


@pytest.mark.parametrize(("frames", "count"), [(0, 1), (7, 1), (8, 1), (15, 1), (16, 2), (60, 7), (10_800, 1350)])
def test_every_piece_has_its_frames(frames: int, count: int) -> None:
    assert len(plan_segments(Span(0.0, 60.0), frames, 8)) == count


def test_no_more_pieces_than_allowed() -> None:
    assert [piece.span for piece in plan_segments(Span(10.0, 20.0), 800, 8, most=2)] == [Span(10, 15), Span(15, 20)]


def test_pieces_below_two_seconds_are_told_apart_by_tenths() -> None:
    pieces = plan_segments(Span(59.0, 62.0), 16, 8)
    assert [piece.intro for piece in pieces] == ["From 0:59 to 1:00.5: ", "From 1:00.5 to 1:02: "]


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.integers(0, 3000), st.integers(1, 32), st.none() | st.integers(1, 40))
def test_pieces_cover_the_span_without_gaps(
    start: float, length: float, frames: int, num_frames: int, most: int | None
) -> None:
    span = Span(start, start + length)
    pieces = plan_segments(span, frames, num_frames, most)
    assert pieces[0].span.start == span.start
    assert pieces[-1].span.end == span.end
    for left, right in pairwise(pieces):
        assert left.span.end == right.span.start
        assert left.intro.split()[3] == right.intro.split()[1] + ":"
    assert len(pieces) <= (most or len(pieces))
    assert len(pieces) == 1 or frames >= num_frames * len(pieces)


def test_longer_pieces_are_told_in_whole_seconds() -> None:
    pieces = plan_segments(Span(3540.0, 3605.3), 16, 8)
    assert [piece.intro for piece in pieces] == ["From 59:00 to 59:33: ", "From 59:33 to 1:00:05: "]
    assert pieces[0].span.end == 3540.0 + 65.3 / 2  # the words are rounded, the span is not


def test_as_many_pieces_as_the_budget_holds() -> None:
    assert segments_that_fit(600, 60) == 10
    assert segments_that_fit(659, 60) == 10
    assert segments_that_fit(60, 60) == 1


@pytest.mark.parametrize("budget", [59, 0, -5])
def test_budget_below_one_piece_is_an_error(budget: int) -> None:
    with pytest.raises(ContextOverflowError, match=f"needs 60 tokens and {max(budget, 0)} are free"):
        segments_that_fit(budget, 60)
