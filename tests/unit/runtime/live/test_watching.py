from __future__ import annotations

import pytest

from vllama.runtime.errors import SpecError
from vllama.runtime.live.watching import Switch


def test_a_score_that_wavers_between_the_thresholds_changes_nothing() -> None:
    switch = Switch(0.6, 0.4)
    scores = [0.5, 0.59, 0.6, 0.45, 0.55, 0.41, None, 0.4, 0.5, None, 0.9, 0.1]
    changes = [(score, switch.state) for score in scores if switch.update(score)]
    assert changes == [(0.6, True), (0.4, False), (0.9, True), (0.1, False)]


def test_it_begins_as_off_and_a_first_no_is_no_change() -> None:
    switch = Switch(0.5, 0.5)
    assert (switch.update(0.0), switch.state) == (False, False)
    assert (switch.update(0.5), switch.state) == (True, True)


@pytest.mark.parametrize(("on", "off"), [(0.4, 0.6), (1.1, 0.5), (0.5, -0.1)])
def test_thresholds_that_make_no_sense_are_refused(on: float, off: float) -> None:
    with pytest.raises(SpecError, match="no greater than on"):
        Switch(on, off)
