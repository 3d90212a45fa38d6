"""Times as people write them: 62, 1:02, 0:01:02, 30s, 1m30s; and how long something took."""

from __future__ import annotations

import re
import time

from .errors import SpecError
from .types import Span

_CLOCK = re.compile(r"(?:(\d{1,9}):(?=[0-5]?\d:))?(\d{1,9}):([0-5]?\d(?:\.\d+)?)")  # above 59 is no time
_UNITS = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m(?:in)?)?(?:(\d{1,9}(?:\.\d+)?)s?)?")
_HELP = "write seconds, 1:02, 1:02:03, 30s or 1m30s"


def parse_seconds(text: str) -> float:
    """Seconds.

    Raises:
        SpecError: it is no time.
    """
    written = text.strip().lower().replace(" ", "")
    if clock := _CLOCK.fullmatch(written):
        hours, minutes, seconds = clock.groups()
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds)
    units = _UNITS.fullmatch(written)
    if not written or units is None:
        raise SpecError(f"{text!r} is not a time; {_HELP}")
    hours, minutes, seconds = units.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds or 0)


def parse_span(text: str) -> Span:
    """`1:02-1:40`, `1:02-` (to the end), `1:02` (that moment), `last 30s`, or `all`: the whole clip.

    Raises:
        SpecError: it is none of these, or ends before it begins.
    """
    written = text.strip().lower()
    if written in ("all", "whole"):
        return Span.whole()
    if written.startswith("last"):
        seconds = written.removeprefix("last").strip()
        if not seconds:
            raise SpecError(f"{text!r} says no time; write last 30s")
        return make_span(last=seconds)
    start, dash, end = (part.strip() or None for part in written.partition("-"))
    return make_span(start, end) if dash else Span.at(parse_seconds(written))


def make_span(
    start: str | None = None, end: str | None = None, last: str | None = None, moment: str | None = None
) -> Span:
    """A span of what --from, --to, --last and --at say; the whole clip where they say nothing.

    Raises:
        SpecError: one is no time, the span is empty, or `last` or `moment` stands beside the others.
    """
    bounded = start is not None or end is not None
    if bounded + (last is not None) + (moment is not None) > 1:
        raise SpecError("--at and --last cannot stand beside --from, --to or each other; use one of them")
    if moment is not None:
        return Span.at(parse_seconds(moment))
    if last is not None:
        return Span.last(parse_seconds(last))
    first = 0.0 if start is None else parse_seconds(start)
    final = float("inf") if end is None else parse_seconds(end)
    if final == first:
        raise SpecError(f"the span from {clock(first)} to {clock(final)} is empty; for a moment give one time")
    if final < first:
        raise SpecError(f"the span ends at {clock(final)}, before {clock(first)} where it begins; swap them")
    return Span(first, final)


def check_span(span: Span | None, duration: float) -> None:
    """Make sure that a clip of so many seconds reaches into a span.

    Raises:
        SpecError: it ends before.
    """
    if span is not None and span.start > 0 and (span.start > duration or (span.start == duration < span.end)):
        raise SpecError(
            f"the clip is {clock(duration)} long, and {clock(span.start)} is not in it; ask about an earlier time"
        )


def clock(seconds: float) -> str:
    """0:00, 1:02, 1:02:03; tenths of a second where there are any."""
    tenths = round(seconds * 10)
    whole, rest = divmod(tenths, 10)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    head = f"{hours}:{minute:02}" if hours else f"{minute}"
    return f"{head}:{second:02}" + (f".{rest}" if rest else "")


def ms_since(started: float) -> float:
    """Milliseconds since that moment of `time.perf_counter`."""
    return (time.perf_counter() - started) * 1000.0
