"""The carriers hold arrays: each is equal to itself alone, and can be a member of a set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vllama.runtime.errors import SpecError
from vllama.runtime.live.watching import Switch
from vllama.runtime.media import MediaInfo
from vllama.runtime.memory import MemoryFrames
from vllama.runtime.remembered import Remembered
from vllama.runtime.timeline import Budget, ClipFeature, FrameFeature, Timeline
from vllama.runtime.types import Embeds, Frame, Samples, Span

_ROWS = np.zeros((2, 3), np.float32)
_CARRIERS: dict[str, Callable[[], object]] = {
    "frame": lambda: Frame(0, 0.0, np.zeros((2, 2, 3), np.uint8)),
    "samples": lambda: Samples(0.0, _ROWS.copy(), 16000),
    "embeds": lambda: Embeds(_ROWS.copy(), "video"),
    "frame feature": lambda: FrameFeature(0, 0.0, _ROWS.copy()),
    "clip feature": lambda: ClipFeature(0.0, 2.0, np.zeros(3, np.float32)),
    "timeline": lambda: Timeline("model", "content", "video", 1, 1.0, 1.0, sound=False),
    "remembered": lambda: Remembered(_ROWS.copy(), (0.0,), 1),
    "memory frames": lambda: MemoryFrames(np.zeros((2, 2, 3), np.float32), ((0.0, 1.0), (1.0, 2.0))),
    "media info": lambda: MediaInfo(Path("clip.mp4"), "video", np.zeros(2), 1.0, 2.0, False),
}


@pytest.mark.parametrize("make", _CARRIERS.values(), ids=_CARRIERS)
def test_a_carrier_is_equal_to_itself_alone(make: Callable[[], object]) -> None:
    one, other = make(), make()
    assert [one, other].index(other) == 1
    assert len({one, other, one}) == 2


_BEYOND = 10**400  # of what a float can be


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Span(_BEYOND, 2 * _BEYOND), "a span from 1e+400 to 2e+400 s is none; let it start at a finite time"),
        (lambda: Span(0, _BEYOND), "a span from 0 to 1e+400 s is none; let it end at a time, or at infinity for the"),
        (lambda: Span(0, float("nan")), "a span from 0 to nan s is none; let it end at a time, or at infinity for the"),
        (lambda: Span.at(float("inf")), "a span from inf to inf s is none; let it start at a finite time"),
        (lambda: Span(2, 1), "a span from 2 to 1 s is none; let it end after it starts"),
        (lambda: Span.last(_BEYOND), "the last 1e+400 s are no time at all; give more than 0 seconds"),
        (lambda: Switch(_BEYOND, 0), "on is 1e+400 and off 0; use 0 to 1, and off no greater than on"),
        (lambda: Budget(seconds=float("nan")), "the budget's seconds are nan; use more than 0, or none for no bound"),
    ],
)
def test_number_that_is_no_such_quantity_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(SpecError) as error:
        make()
    assert str(error.value).startswith(said)
