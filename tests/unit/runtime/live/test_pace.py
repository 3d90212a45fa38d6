from __future__ import annotations

import pytest

from vllama.runtime.live.pace import Pace


def _pace(wanted: float, costs: list[float], answers: bool = False) -> float:
    pace = Pace(wanted, lambda: answers)
    for cost in costs:
        pace.took(cost)
    return pace.interval


def test_what_the_machine_can_hold_is_as_often_as_wanted() -> None:
    assert _pace(0.25, []) == 0.25
    assert _pace(0.25, [0.01, 0.02]) == 0.25


@pytest.mark.parametrize(("answers", "times"), [(False, 2.0), (True, 5.0)])
def test_what_is_dear_comes_seldom_and_more_seldom_during_an_answer(answers: bool, times: float) -> None:
    assert _pace(0.25, [0.5], answers) == pytest.approx(0.5 * times)


def test_the_first_dear_one_is_soon_outweighed() -> None:
    assert _pace(0.25, [30.0, 0.1, 0.1]) == 0.25


def test_only_the_last_costs_count() -> None:
    assert _pace(0.25, [1.0] * 20 + [0.2] * 3) == pytest.approx(0.4)


@pytest.mark.parametrize(("wanted", "least"), [(0.25, 5.0), (10.0, 10.0)])
def test_seeing_never_stops(wanted: float, least: float) -> None:
    assert _pace(wanted, [60.0], answers=True) == least
