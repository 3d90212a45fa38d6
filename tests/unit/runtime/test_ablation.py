from __future__ import annotations

from random import Random

import numpy as np
import pytest

from vllama.runtime.ablation import ABLATIONS
from vllama.runtime.timeline import ClipFeature, FrameFeature, Timeline


def made(start: int) -> Timeline:
    timeline = Timeline("model", "content", "video", 80, 8.0, 10.0, sound=True)
    for index in range(80):
        timeline.add_frame(FrameFeature(index, index / 10, np.full((2, 3), start + index, np.float16)))
    clips = (ClipFeature(number, number + 2, np.full(5, start + number, np.float16)) for number in range(4))
    timeline.replace_whole_clips(tuple(clips))
    return timeline


@pytest.mark.parametrize(
    ("name", "frames", "clips"),
    [("frames shuffled", 8, 0), ("no sound", 8, None), ("other sound", 8, 1000), ("no media", 0, None)],
)
def test_each_takes_away_what_it_says(name: str, frames: int, clips: int | None) -> None:
    timeline, other = made(0), made(1000)
    changed = ABLATIONS[name](timeline, other, 8, Random(1))
    mine = timeline.choose_frames(8)
    found = changed.choose_frames(8)
    assert [frame.time for frame in found] == [frame.time for frame in mine][:frames]
    values = [frame.features[0, 0] for frame in found]
    assert sorted(values) == [frame.features[0, 0] for frame in mine][:frames]
    assert (values != sorted(values)) == (name == "frames shuffled")
    heard = changed.choose_clips(4, 2.0)
    assert [clip.features[0] for clip in heard] == ([] if clips is None else [clips + number for number in range(4)])
    assert len(timeline.choose_frames(8)) == 8  # the original is as it was
    assert (changed.model, changed.content, changed.duration) == ("model", "content", 8.0)
