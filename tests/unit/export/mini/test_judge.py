"""What is changed before held-out clips are asked about."""

from __future__ import annotations

from random import Random

import pytest
import torch

from vllama.export.mini.cache import Features, clip_of
from vllama.export.mini.judge import Verdict, _changed

WORLD = Features(
    [clip_of(seed) for seed in range(3)],
    torch.arange(3.0 * 8).reshape(3, 8, 1, 1),
    torch.arange(3.0 * 8).reshape(3, 8, 1),
)


@pytest.mark.parametrize("verdict", Verdict)
def test_only_what_the_verdict_names_is_changed(verdict: Verdict) -> None:
    rng = Random(4)
    pictures, sounds = set(), set()
    for _ in range(20):
        shown = _changed(WORLD, 1, verdict, rng)
        assert shown.clips == WORLD.clips[1:2]
        pictures.add(tuple(shown.frames.flatten().tolist()))
        sounds.add(tuple(shown.sounds.flatten().tolist()))
    own, clips = tuple(range(8, 16)), {tuple(range(first, first + 8)) for first in (0, 8, 16)}
    if verdict is Verdict.SHUFFLED:
        assert len(pictures) > 10
        assert {tuple(sorted(order)) for order in pictures} == {own}
    else:
        assert pictures == (clips if verdict is Verdict.OTHER_PICTURES else {own})
    assert sounds == (clips if verdict is Verdict.OTHER_SOUND else {own})
    assert torch.equal(WORLD.frames.flatten(), torch.arange(24.0))
