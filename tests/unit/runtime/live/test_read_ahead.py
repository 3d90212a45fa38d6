"""When the window is read: the loop of `ReadAhead`, in a time that it alone makes go on."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import pytest

from vllama.runtime import BackendError
from vllama.runtime.live import read_ahead
from vllama.runtime.live.live_chat import LiveChat
from vllama.runtime.live.read_ahead import ReadAhead
from vllama.runtime.types import Span

_TICK = 1 / 16  # exact in binary, as all times here are


class Reader:
    """A chat whose windows take `took` seconds to read, of a timeline that never ends; `read`: when each began."""

    def __init__(self) -> None:
        self.now = self.end = self.took = self.fresh_seconds = 0.0
        self.window = Span.last(8.0)
        self.timeline = SimpleNamespace(duration=0.0)
        self.read: list[float] = []
        self.keys = (0.0, 0.0)  # somebody types from and to
        self.ahead = ReadAhead(cast(LiveChat, self))
        self.ahead.close()  # the thread; its loop runs in `go_on`

    @property
    def reads_ahead(self) -> bool:
        return bool(self.read) and self.now < self.read[-1] + self.took

    def prepare(self, *, long: None) -> None:
        self.read.append(self.now)

    def go_on(self, seconds: float) -> None:
        self.end = self.now + seconds
        self.ahead._run()

    def wait(self, seconds: float) -> bool:
        self.now += _TICK
        self.timeline.duration = self.now
        if self.keys[0] <= self.now <= self.keys[1]:
            self.ahead.typing()
        return self.now > self.end


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    reader = Reader()
    monkeypatch.setattr(read_ahead, "time", SimpleNamespace(monotonic=lambda: reader.now))
    monkeypatch.setattr(reader.ahead, "_stop", reader)
    return reader


@pytest.mark.parametrize(("took", "idle", "typing"), [(0.0, 1.0, 0.25), (0.125, 1.0, 0.25), (0.5, 2.0, 0.5)])
def test_it_is_read_as_often_as_a_quarter_of_the_time_allows_and_at_once_while_somebody_types(
    reader: Reader, took: float, idle: float, typing: float
) -> None:
    reader.took, reader.keys = took, (10.0, 20.0)
    reader.go_on(40.0)
    assert reader.read[0] == _TICK
    intervals = [(begun, after - begun) for begun, after in pairwise(reader.read)]
    assert {each for begun, each in intervals if begun + idle < 10.0} == {idle}
    assert {each for begun, each in intervals if 10.0 <= begun < 22.0 - typing} == {typing}
    assert {each for begun, each in intervals if begun >= 22.0 - typing} == {idle}, "two seconds after the last key"


@pytest.mark.parametrize(("took", "fresh"), [(0.25, 1.5), (0.75, 1.5), (1.0, 2.0), (3.0, 6.0)])
def test_a_window_is_fresh_for_twice_as_long_as_it_took_to_read(reader: Reader, took: float, fresh: float) -> None:
    reader.took = took
    reader.go_on(20.0)
    with reader.ahead.asking() as chat:
        assert chat.fresh_seconds == fresh


def test_what_is_still_being_read_when_the_question_comes_counts_by_the_reading_before(reader: Reader) -> None:
    reader.took = 2.0
    reader.go_on(9.0)
    assert reader.reads_ahead
    with reader.ahead.asking() as chat:
        assert chat.fresh_seconds == 4.0


def test_nothing_is_read_during_a_question_and_at_once_after_it(reader: Reader) -> None:
    reader.go_on(5.5)
    before = len(reader.read)
    with reader.ahead.asking():
        reader.keys = (0.0, 20.0)
        reader.go_on(5.0)
        assert len(reader.read) == before
    for _ in range(2):
        with reader.ahead.asking():
            before = len(reader.read)
        reader.go_on(_TICK)
        assert len(reader.read) == before + 1


def test_a_window_that_stands_still_is_read_once(reader: Reader) -> None:
    reader.now, reader.window = 20.0, Span(4.0, 8.0)
    reader.go_on(20.0)
    assert reader.read == [20.0 + _TICK]


def test_reading_ends_with_the_first_error(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: object) -> None:
        reader.read.append(reader.now)
        raise BackendError("out of memory; close something")

    monkeypatch.setattr(reader, "prepare", fail)
    reader.go_on(5.0)
    assert reader.read == [_TICK]
    with reader.ahead.asking() as chat:
        assert chat.window == Span.last(8.0)
