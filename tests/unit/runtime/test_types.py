"""The carriers hold arrays: each is equal to itself alone, and can be a member of a set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vllama.runtime.media import MediaInfo
from vllama.runtime.memory import MemoryFrames
from vllama.runtime.remembered import Remembered
from vllama.runtime.timeline import ClipFeature, FrameFeature, Timeline
from vllama.runtime.types import Embeds, Frame, Samples

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
