from __future__ import annotations

from datetime import datetime

import pytest

from vllama.runtime.capture.clock import Clock
from vllama.runtime.errors import SpecError
from vllama.runtime.live.daytime import parse_live_span, time_of_day
from vllama.runtime.types import Span


class _At(Clock):
    """Began at one time of day, and it is another."""

    def __init__(self, began: str, seconds: float) -> None:
        super().__init__()
        self.started = datetime.fromisoformat(began).astimezone()
        self._now = seconds

    def now(self) -> float:
        return self._now


AFTERNOON = _At("2026-03-05T14:00:00", 3600.0)  # until 15:00
NIGHT = _At("2026-03-05T23:30:00", 3600.0)  # until 00:30


@pytest.mark.parametrize(
    ("text", "clock", "start", "end"),
    [
        ("14:05", AFTERNOON, 300.0, 360.0),
        ("14:05:30", AFTERNOON, 325.0, 335.0),
        ("14:05-14:06", AFTERNOON, 300.0, 360.0),
        ("14:05:10 - 14:06:30", AFTERNOON, 310.0, 390.0),
        ("14:58-15:10", AFTERNOON, 3480.0, 4200.0),
        ("14:05-", AFTERNOON, 300.0, float("inf")),
        ("14:00:02", AFTERNOON, 0.0, 7.0),
        ("13:59-14:01", AFTERNOON, 0.0, 60.0),
        ("23:40", NIGHT, 600.0, 660.0),
        ("0:10", NIGHT, 2400.0, 2460.0),
        ("23:59-0:01", NIGHT, 1740.0, 1860.0),
        ("last 30s", AFTERNOON, -30.0, 0.0),
        ("all", AFTERNOON, 0.0, float("inf")),
    ],
)
def test_times_of_day_are_seconds_of_the_clock(text: str, clock: Clock, start: float, end: float) -> None:
    span = parse_live_span(text, clock)
    assert (span.start, span.end) == pytest.approx((start, end)), span


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("noon", "not a time of day"),
        ("24:00", "not a time of day"),
        ("14:60", "not a time of day"),
        ("0:10-0:15", "before 14:00:00"),
        ("13:59", "before 14:00:00"),
        ("15:30", "still to come"),
        ("last", "no time at all"),
        ("14:05-soon", "not a time of day"),
    ],
)
def test_what_is_no_time_of_then_is_said(text: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        parse_live_span(text, AFTERNOON)


def test_seconds_are_said_as_a_time_of_day() -> None:
    assert [time_of_day(second, NIGHT) for second in (0.0, 61.9, 1800.0)] == ["23:30:00", "23:31:01", "00:00:00"]
    assert parse_live_span(time_of_day(1234.0, NIGHT), NIGHT) == Span(1229.0, 1239.0)
