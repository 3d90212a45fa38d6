from __future__ import annotations

from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllama.runtime.errors import SpecError
from vllama.runtime.times import check_span, clock, make_span, parse_seconds, parse_span
from vllama.runtime.types import Span


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("62", 62), ("1:02", 62), ("1:02.5", 62.5), ("1:02:03", 3723), ("30s", 30), ("1m30s", 90), ("2min", 120),
     ("1h", 3600), (" 1m 30s ", 90), ("0.5", 0.5), ("12:03", 723)],
)  # fmt: skip
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "1:", ":30", "5x", "1:75x", "1:99", "1:60:00"])
def test_what_is_no_time_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(SpecError, match="1m30s"):
        parse_seconds(text)


def test_spans_are_read_as_people_write_them() -> None:
    assert parse_span("1:02-1:40") == Span(62, 100)
    assert parse_span("10-") == Span(10, float("inf"))
    assert parse_span("last 30s") == Span.last(30) == make_span(last="30s")
    assert parse_span("1:02") == Span.at(62) == make_span(moment="62s")
    assert parse_span("all") == Span.whole()
    assert make_span() == Span.whole()
    assert make_span(end="5") == Span(0, 5)
    assert parse_span("-5") == Span(0, 5)


@pytest.mark.parametrize("text", ["soon", "", "9-3", "3-3", "last", "last 0s"])
def test_spans_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_span(text)
    with pytest.raises(SpecError, match="--last"):
        make_span("1", None, "2")
    with pytest.raises(SpecError, match="--at"):
        make_span(None, None, "2", "1")


@pytest.mark.parametrize("name", ["start", "end", "last", "moment"])
def test_time_that_is_left_empty_is_not_the_whole_clip(name: str) -> None:
    with pytest.raises(SpecError, match="'' is not a time"):
        make_span(**{name: ""})


@pytest.mark.parametrize("text", ["2-2", "0-0"])
def test_empty_span_is_not_said_to_be_the_wrong_way_round(text: str) -> None:
    with pytest.raises(SpecError, match="is empty"):
        parse_span(text)


@pytest.mark.parametrize(
    ("span", "inside"),
    [(Span(62, 100), False), (Span(6, 8), False), (Span.at(6.1), False), (Span(5.9, 100), True), (Span.at(6), True),
     (Span.last(100), True), (Span.whole(), True), (None, True)],
)  # fmt: skip
def test_span_after_the_end_of_a_clip_is_refused(span: Span | None, inside: bool) -> None:
    with nullcontext() if inside else pytest.raises(SpecError, match="the clip is 0:06 long"):
        check_span(span, 6.0)


@pytest.mark.parametrize(
    ("start", "end"),
    [(5.0, 2.0), (float("nan"), float("nan")), (0.0, float("nan")), (float("inf"), float("inf")),
     (-float("inf"), 0.0), (-1.0, -1.0), (-3.0, 2.0)],
)  # fmt: skip
def test_what_is_no_span_is_refused(start: float, end: float) -> None:
    with pytest.raises(SpecError, match=r"^a span [^\n]*; [^\n]*$"):
        Span(start, end)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_last_of_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(SpecError, match="are no time at all; give more than 0 seconds"):
        Span.last(seconds)


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + "m", "9" * 400 + ":00", "1:" + "9" * 400 + ":00"])
def test_time_that_no_number_holds_is_no_time(text: str) -> None:
    with pytest.raises(SpecError, match="is not a time"):
        parse_seconds(text)


def test_span_is_cut_to_the_clip_and_one_beyond_it_is_left_with_nothing() -> None:
    assert Span(2.0, 100.0).within(6.0) == Span(2.0, 6.0)
    assert Span.last(2.0).within(6.0) == Span(4.0, 6.0)
    assert Span.last(9.0).within(6.0) == Span(0.0, 6.0)
    assert Span.at(5.5).within(6.0) == Span(0.0, 6.0)
    assert Span.whole().within(0.0) == Span(0.0, 0.0)
    beyond = Span(62.0, 100.0).within(6.0)
    assert (beyond.start, beyond.is_moment, beyond.end - beyond.start < 1e-9) == (62.0, False, True)
    assert beyond.within(6.0) == beyond


@given(st.integers(0, 10**6))
def test_a_written_time_is_read_as_itself(tenths: int) -> None:
    assert round(parse_seconds(clock(tenths / 10)) * 10) == tenths
