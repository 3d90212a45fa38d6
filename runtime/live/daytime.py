"""Times of day as people say them of a live source: 14:05, 14:05:30, 14:05-14:06, last 30s, all."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta

from ..capture.clock import Clock
from ..errors import SpecError
from ..times import make_span
from ..types import Span

_TIME = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_AROUND_SECONDS = 5.0  # before and after a time that is given to the second
_HELP = "write 14:05, 14:05:30, 14:05-14:06, last 30s or all"


def parse_live_span(text: str, clock: Clock) -> Span:
    """A minute (`14:05`), ten seconds (`14:05:30`, in their middle), from one to another (`14:05-14:06:30`, `14:05-`).

    A time is the last one there was, today or yesterday. `last 30s` and `all` are as in `times.parse_span`.

    Returns:
        Seconds on the clock; of `last 30s`, a span that counts from the end.

    Raises:
        SpecError: it is none of these, is over before the clock began, is still to come, or ends before it begins.
    """
    written = text.strip().lower()
    if written in ("all", "whole"):
        return Span.whole()
    if written.startswith("last"):
        return make_span(last=written.removeprefix("last").strip() or "0s")
    first, dash, last = (part.strip() for part in written.partition("-"))
    start, step = _seconds(first, clock)
    if not dash:
        early, late = (0.0, 60.0) if step == 60.0 else (_AROUND_SECONDS, _AROUND_SECONDS)
        return _checked(text, start - early, start + late, clock)
    end = _seconds(last, clock, not_before=start)[0] if last else float("inf")
    if end <= start:
        raise SpecError(f"{text}: ends before it begins; swap the times")
    return _checked(text, start, end, clock)


def time_of_day(seconds: float, clock: Clock) -> str:
    """14:05:30, of a second on the clock."""
    return f"{clock.wall(seconds):%H:%M:%S}"


def _seconds(text: str, clock: Clock, not_before: float | None = None) -> tuple[float, float]:
    """The newest such time until now, or the first one after `not_before`; and how exactly it was given, in seconds."""
    found = _TIME.fullmatch(text)
    hour, minute, second = (int(part or 0) for part in found.groups()) if found else (24, 0, 0)
    if hour > 23 or minute > 59 or second > 59:
        raise SpecError(f"{text!r} is not a time of day; {_HELP}")
    now = clock.wall(clock.now())
    moment = datetime.combine(now.date(), time(hour, minute, second)).astimezone()
    if not_before is not None:
        moment = datetime.combine(clock.wall(not_before).date(), moment.timetz())
        moment += timedelta(days=1) * (clock.seconds(moment) <= not_before)
    elif moment > now:
        moment -= timedelta(days=1)
    return clock.seconds(moment), 60.0 if found and found[3] is None else 1.0


def _checked(text: str, start: float, end: float, clock: Clock) -> Span:
    if end <= 0:
        began = time_of_day(0.0, clock)
        raise SpecError(f"{text} is before {began}, when this began, or still to come; ask about a time in between")
    return Span(max(start, 0.0), end)
