from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vllama.runtime.errors import FileError
from vllama.runtime.timeline import ClipFeature, FrameFeature, Timeline
from vllama.runtime.types import Span


def _timeline(indices: list[int], length: int = 100, rate: float = 10.0) -> Timeline:
    timeline = Timeline("model", "content", "video", length, length / rate, rate, sound=True)
    for index in indices:
        timeline.add_frame(FrameFeature(index, index / rate, np.full((2, 3), index, np.float16)))
    return timeline


def test_whole_clip_takes_the_frames_of_the_rule() -> None:
    timeline = _timeline(list(range(100)))
    assert [f.index for f in timeline.choose_frames(8)] == [0, 12, 25, 37, 50, 62, 75, 87]


def test_span_takes_the_same_rule_over_its_seconds() -> None:
    timeline = _timeline(list(range(100)))
    assert [f.index for f in timeline.choose_frames(4, Span(2.0, 4.0))] == [20, 25, 30, 35]
    assert [f.index for f in timeline.choose_frames(4, Span.last(2.0))] == [80, 85, 90, 95]


def test_sparse_timeline_gives_each_near_frame_once() -> None:
    timeline = _timeline([0, 50, 90])
    assert [f.index for f in timeline.choose_frames(8, Span(0.0, 10.0))] == [0, 50, 90]
    assert [f.index for f in timeline.choose_frames(8, Span(4.0, 6.0))] == [50]
    assert [f.index for f in timeline.choose_frames(8, Span(1.0, 2.0))] == [0]


def test_empty_timeline_shows_nothing() -> None:
    assert _timeline([]).choose_frames(8) == []
    assert _timeline([]).choose_clips(8, 2.0, Span(0.0, 1.0)) == []


def test_whole_clip_hears_the_clips_of_the_rule_in_their_order() -> None:
    timeline = _timeline([])
    for start in (0.0, 0.5, 1.0):
        timeline.add_clip(ClipFeature(start, start + 2.0, np.zeros(4, np.float16)), whole=True)
    timeline.add_clip(ClipFeature(6.0, 8.0, np.ones(4, np.float16)), whole=False)
    assert [c.start for c in timeline.choose_clips(3, 2.0)] == [0.0, 0.5, 1.0]
    assert [c.start for c in timeline.choose_clips(3, 2.0, Span(5.0, 8.0))] == [6.0, 6.0, 6.0]
    assert [c.start for c in timeline.choose_clips(2, 2.0, Span(0.0, 4.0))] == [0.0, 1.0]


def test_saved_timeline_is_the_same_one(tmp_path: Path) -> None:
    timeline = _timeline([3, 1, 2])
    timeline.add_clip(ClipFeature(0.0, 2.0, np.arange(4, dtype=np.float16)), whole=True)
    timeline.add_clip(ClipFeature(2.0, 4.0, np.arange(4, dtype=np.float16) + 1), whole=False)
    timeline.save(tmp_path / "sub" / "t.safetensors")
    again = Timeline.load(tmp_path / "sub" / "t.safetensors")
    assert (again.model, again.content, again.kind, again.length, again.sound) == (
        "model",
        "content",
        "video",
        100,
        True,
    )
    assert [f.index for f in again.choose_frames(3, Span(0.0, 10.0))] == [1, 3]
    for mine, theirs in zip(
        timeline.choose_clips(2, 2.0, Span(0, 4)), again.choose_clips(2, 2.0, Span(0, 4)), strict=True
    ):
        assert (mine.start, mine.end) == (theirs.start, theirs.end)
        np.testing.assert_array_equal(mine.features, theirs.features)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["t.safetensors"]


def test_damaged_timeline_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    _timeline([1]).save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FileError, match="index the clip again"):
        Timeline.load(path)
    path.write_text("{}")
    with pytest.raises(FileError, match="index the clip again"):
        Timeline.load(path)
