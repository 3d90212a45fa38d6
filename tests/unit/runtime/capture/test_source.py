"""A source that is a row of what happens to it, one thing each time it is opened."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest

from tests.live.waiting import until
from vllama.runtime.capture.clock import Clock
from vllama.runtime.capture.source import EndedError, Source
from vllama.runtime.errors import DeviceError


class Tap(Source):
    """happens: "gone" cannot be opened, "drip" gives one and is lost, "run" gives until shut, "end" ends, "fault"."""

    def __init__(self, *happens: str) -> None:
        self.notes: list[str] = []
        self.opened: list[float] = []
        self.open = False
        self._happens = [*happens]
        super().__init__("tap", Clock(), self.notes.append)
        self._begin()

    def _follow(self) -> None:
        self.opened.append(time.monotonic())
        happens = self._happens.pop(0) if len(self._happens) > 1 else self._happens[0]
        if happens == "gone":
            raise DeviceError("tap: no water; open the main")
        self.open = True
        self._arrived()
        while happens == "run" and self._rest(0.01):
            self._arrived()
        self.open = False
        if happens == "fault":
            raise ZeroDivisionError
        if happens == "end":
            raise EndedError("tap: ended")
        if happens == "drip":
            raise DeviceError("tap: ran dry; wait")


def test_what_cannot_be_opened_at_the_start_is_an_error_and_leaves_no_thread() -> None:
    before = threading.enumerate()
    with pytest.raises(DeviceError, match=r"^tap: no water; open the main$"):
        Tap("gone")
    assert threading.enumerate() == before


def test_what_is_lost_is_noted_once_and_tried_again_after_waits_that_double() -> None:
    tap = Tap("drip", "gone", "gone", "run")
    until(lambda: len(tap.notes) == 2)
    waits = [later - earlier for earlier, later in pairwise(tap.opened)]
    status = tap.status
    tap.close()
    assert tap.notes[0] == "tap: ran dry; wait; trying again"
    assert tap.notes[1].startswith("tap: back after ")
    assert [wait >= least for wait, least in zip(waits, (0.5, 1.0, 2.0), strict=True)] == [True] * 3, waits
    assert status.state == "on"


def test_the_status_says_in_one_line_why_it_is_lost() -> None:
    tap = Tap("drip", "gone")
    until(lambda: len(tap.opened) > 1 and tap.status.detail)
    status = tap.status
    tap.close()
    assert (status.name, status.state, status.detail) == ("tap", "lost", "no water; open the main")
    assert (status.seen, status.rate) == (1, 0.0)


def test_closing_does_not_wait_for_the_next_try() -> None:
    tap = Tap("drip", "gone")
    until(lambda: len(tap.opened) == 3)  # the next comes in 2 s
    begun = time.monotonic()
    tap.close()
    tap.close()
    assert time.monotonic() - begun < 1.5
    assert "tap" not in [thread.name for thread in threading.enumerate()]


def test_a_paused_source_is_closed_when_pause_returns_and_opened_by_resume() -> None:
    tap = Tap("run")
    tap.pause()
    assert (tap.open, tap.status.state) == (False, "paused")
    tap.resume()
    until(lambda: tap.open)
    until(lambda: tap.status.state == "on")
    tap.close()
    assert tap.notes == []


def test_a_lost_source_can_be_paused_and_is_not_tried_meanwhile() -> None:
    tap = Tap("drip", "run")
    tap.pause()
    opened = len(tap.opened)
    time.sleep(0.7)
    assert (len(tap.opened), tap.status.state) == (opened, "paused")
    tap.resume()
    until(lambda: tap.status.state == "on")
    tap.close()


def test_one_that_ended_is_not_tried_again() -> None:
    tap = Tap("end")
    until(lambda: tap.notes)
    time.sleep(0.7)
    status, opened = tap.status, len(tap.opened)
    tap.close()
    assert tap.notes == ["tap: ended"]
    assert (status.state, status.detail, opened) == ("ended", "", 1)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    tap = Tap("run")
    time.sleep(1.0)
    status = tap.status
    tap.close()
    assert 10.0 < status.rate <= 101.0
    assert status.rate == pytest.approx(status.seen, rel=0.5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_after_a_fault_of_our_own_nobody_waits_for_the_thread() -> None:
    tap = Tap("fault")
    until(lambda: tap.status.state == "lost")
    status = tap.status
    tap.pause()
    tap.close()
    assert status.detail == "given up by an error in vllama itself; report it"


def test_a_closed_source_is_not_on() -> None:
    tap = Tap("run")
    tap.close()
    assert (tap.status.state, tap.status.detail) == ("lost", "closed")


def test_no_wait_for_what_is_being_opened_is_without_a_limit() -> None:
    """Ctrl-C would not end it on Windows."""
    waits: list[float | None] = []

    class News(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread() is threading.main_thread():
                waits.append(timeout)
            return super().wait(timeout)

    class Slow(Tap):
        def _begin(self) -> None:
            self._news = News()
            super()._begin()

        def _follow(self) -> None:
            time.sleep(0.05)
            super()._follow()

    Slow("run").close()
    assert waits
    assert None not in waits
