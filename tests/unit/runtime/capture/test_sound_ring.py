from __future__ import annotations

import numpy as np
import pytest

from vllama.runtime.capture.sound_ring import SampleClock, SoundRing

RATE = 100


def ring(seconds: float = 10.0, *, zero: float = 5.0, heard: float = 4.0) -> SoundRing:
    """Samples that are their own numbers, from `zero` on."""
    filled = SoundRing(RATE, seconds)
    filled.begin(zero)
    add(filled, heard)
    return filled


def add(ring: SoundRing, seconds: float) -> None:
    ring.add(np.arange(ring._count, ring._count + round(seconds * RATE), dtype=np.float32))


def test_a_clip_is_the_samples_of_its_time() -> None:
    found = ring().clip(6.0, 200)
    assert isinstance(found, tuple)
    start, data = found
    assert start == pytest.approx(6.0)
    np.testing.assert_array_equal(data, np.arange(100, 300))


def test_what_is_still_to_come_is_waited_for() -> None:
    assert ring().clip(8.0, 200) == pytest.approx(1.0)
    assert ring().clip(20.0, 200) == pytest.approx(13.0)
    assert SoundRing(RATE, 10.0).clip(3.0, 200) == pytest.approx(2.0)


def test_what_was_before_the_first_sample_was_not_heard() -> None:
    assert ring().clip(4.5, 200) is None


def test_the_oldest_gives_way_and_is_no_longer_heard() -> None:
    kept = ring(seconds=3.0, heard=4.0)
    assert kept.heard() == pytest.approx((6.0, 9.0))
    assert kept.clip(5.5, 200) is None
    found = kept.clip(6.0, 300)
    assert isinstance(found, tuple)
    np.testing.assert_array_equal(found[1], np.arange(100, 400))
    assert kept.clip(6.0, 400) is None  # more than is kept


def test_a_block_longer_than_the_ring_leaves_its_end() -> None:
    kept = ring(seconds=1.0, heard=0.5)
    add(kept, 7.0)
    found = kept.clip(11.5, 100)
    assert isinstance(found, tuple)
    np.testing.assert_array_equal(found[1], np.arange(650, 750))


def test_a_clip_across_a_gap_is_not_heard_but_both_sides_are() -> None:
    gapped = ring()  # 5 to 9
    gapped.begin(12.0)
    add(gapped, 3.0)
    assert gapped.heard() == pytest.approx((12.0, 15.0))
    assert gapped.clip(8.0, 200) is None  # into the gap
    assert gapped.clip(10.0, 100) is None  # in it
    before, after = gapped.clip(7.0, 200), gapped.clip(12.0, 200)
    assert isinstance(before, tuple)
    assert isinstance(after, tuple)
    np.testing.assert_array_equal(before[1], np.arange(200, 400))
    np.testing.assert_array_equal(after[1], np.arange(400, 600))


def test_ten_hours_of_sound_with_a_gap_every_minute_take_no_more_room() -> None:
    kept = SoundRing(RATE, 30.0)
    for minute in range(600):
        kept.begin(61.0 * minute)
        add(kept, 60.0)
    assert kept._data.nbytes == 30 * RATE * 4
    assert len(kept._stretches) == 1
    heard = kept.heard()
    assert heard == pytest.approx((61.0 * 599 + 30.0, 61.0 * 599 + 60.0))


def hear(clock: SampleClock, seconds: float, *, begin: float, card: float = 1.0, late: float = 0.02) -> list[float]:
    """Blocks of 10 samples, delivered after up to `late` s, by a card that is `card` times as fast as it says."""
    noise = np.random.default_rng(0)
    first = round(begin * RATE * card)
    blocks = range(first - first % 10, round((begin + seconds) * RATE * card), 10)
    return [clock.hear(block, block / RATE / card + late * noise.random()) for block in blocks]


def test_late_delivery_moves_nothing() -> None:
    clock = SampleClock(RATE, 0.02)
    assert not any(hear(clock, 60.0, begin=0.0))
    assert 0.0 <= clock.zero < 0.005


@pytest.mark.parametrize("card", [1.0003, 0.9997])
def test_a_card_whose_crystal_is_off_stays_on_the_clock(card: float) -> None:
    clock = SampleClock(RATE, 0.0)
    assert not any(hear(clock, 600.0, begin=0.0, card=card))
    captured = 600.0
    assert clock.time(round(captured * RATE * card)) == pytest.approx(captured, abs=0.015)  # alone it is off by 0.18


def test_lost_samples_are_noticed_within_two_seconds() -> None:
    clock = SampleClock(RATE, 0.0)
    assert not any(hear(clock, 20.0, begin=0.0))
    lost = [clock.hear(block, block / RATE + 0.5) for block in range(2000, 2300, 10)]
    assert max(lost) == pytest.approx(0.5, abs=0.03)
    assert lost.index(max(lost)) <= 20
