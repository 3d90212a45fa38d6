from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest

from vllama.runtime.capture.clock import Clock


def test_it_counts_seconds_from_when_it_was_made() -> None:
    clock = Clock()
    first = clock.now()
    time.sleep(0.05)
    second = clock.now()
    assert 0.0 <= first < 5.0
    assert second - first >= 0.05


def test_a_monotonic_clock_that_stands_still_for_a_while_does_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)  # as Windows' does for 16 ms
    clock = Clock()
    begun = clock.now()
    time.sleep(0.005)
    assert clock.now() - begun >= 0.004


def test_wall_time_and_seconds_are_each_others_inverse() -> None:
    clock = Clock()
    for seconds in (-5.0, 0.0, 12.25, 36000.0):
        wall = clock.wall(seconds)
        assert wall.tzinfo is not None
        assert clock.seconds(wall) == pytest.approx(seconds, abs=1e-5)
    assert clock.wall(0.0) == clock.started


def test_now_is_now() -> None:
    clock = Clock()
    assert abs((clock.wall(clock.now()) - datetime.now().astimezone()).total_seconds()) < 5.0


def test_a_wall_time_without_zone_is_local_and_one_with_another_zone_is_understood() -> None:
    clock = Clock()
    assert clock.seconds((clock.started + timedelta(seconds=60)).replace(tzinfo=None)) == pytest.approx(60.0)
    elsewhere = (clock.started + timedelta(seconds=60)).astimezone(timezone(timedelta(hours=11)))
    assert clock.seconds(elsewhere) == pytest.approx(60.0)
