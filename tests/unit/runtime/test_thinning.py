from __future__ import annotations

import math

import numpy as np
import pytest

from vllama.runtime.thinning import Thinning


def _thinned(count: int, room: int) -> list[int]:
    thinning: Thinning[int] = Thinning()
    kept: set[int] = set()
    for number in range(count):
        thinning.add(number)
        kept.add(number)
        if len(kept) > room:
            kept.remove(thinning.thin())
    assert len(thinning) == len(kept)
    return sorted(kept)


@pytest.mark.parametrize(("count", "room"), [(300, 256), (3_600, 256), (36_000, 256), (36_000, 1000)])
def test_the_older_the_sparser_and_the_newest_whole(count: int, room: int) -> None:
    kept = np.array(_thinned(count, room))
    whole = room / (math.log2(count / room) + 4)  # a little less than the documented age
    assert len(kept) == room
    assert kept[0] == 0
    ages = count - kept[1:]
    gaps = np.diff(kept)
    assert (gaps[ages < whole] == 1).all(), kept[-int(whole) :]
    assert (gaps <= np.maximum(1, 2 * (ages + gaps) / whole)).all(), (gaps, ages)


def test_room_that_is_not_needed_is_used() -> None:
    assert _thinned(100, 100) == list(range(100))
    assert _thinned(101, 100) == [0, *range(2, 101)]


def test_eight_pictures_of_ten_hours_are_near_those_of_the_rule() -> None:
    count = 36_000
    kept = np.array(_thinned(count, 256))
    wanted = np.arange(0, count, count / 8)
    nearest = np.abs(kept[:, None] - wanted).min(0)
    assert (nearest < count / 8 / 4).all(), nearest
    assert len({int(np.abs(kept - value).argmin()) for value in wanted}) == 8


def test_oldest_goes_first_when_asked_for() -> None:
    thinning: Thinning[str] = Thinning()
    for key in "abcd":
        thinning.add(key)
    assert thinning.oldest() == "a"
    assert [thinning.drop_oldest() for _ in range(4)] == list("abcd")


def test_what_is_not_wanted_is_given_up() -> None:
    thinning: Thinning[int] = Thinning()
    for number in range(10):
        thinning.add(number)
    thinning.keep(lambda number: number % 3 == 0)
    assert [thinning.drop_oldest() for _ in range(len(thinning))] == [0, 3, 6, 9]
