"""A rendered clip, decoded again, shows what the world says."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from vllama.export.mini.render import render
from vllama.export.mini.sound import track
from vllama.export.mini.world import Clip, Event, Sound, Thing, state

RED_MOVES = Clip(
    seed=5,
    duration=2.0,
    things=(Thing("red", "circle", 0.25, 0.3, 0.17), Thing("white", "square", 0.75, 0.72, 0.17)),
    events=(Event(0, "moves right", 0.1, 0.9, 0.45), Event(1, "disappears", 0.5, 0.5)),
    sounds=(Sound("low tone", 0.5, 0.9),),
)


def _pictures(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_a_rendered_clip_has_its_frames_and_its_things_where_the_world_says(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    render(RED_MOVES, path, width=96, height=64, fps=10)
    pictures = _pictures(path)
    assert pictures.shape == (20, 64, 96, 3)
    for number in (0, 8, 19):
        red = state(RED_MOVES, 0, number / 20)
        r, g, b = pictures[number, round(red.y * 64), round(red.x * 96)].astype(int)
        assert r > g + 40, (number, r, g, b)
        assert r > b + 40, (number, r, g, b)
    before, after = pictures[4, 46, 72].astype(int), pictures[16, 46, 72].astype(int)
    assert before.min() > after.max() + 20, (before, after)


def test_a_rendered_clip_sounds_only_where_the_world_says(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    render(RED_MOVES, path, width=32, height=32, fps=10, sample_rate=48000, channels=1)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].channels == 1
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    loud, quiet = sound[52000:80000].std(), sound[4000:40000].std()
    assert loud > 5 * quiet, (loud, quiet)


def test_a_clip_without_sound_has_no_sound_track(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    render(RED_MOVES, path, width=32, height=32, fps=5, sound=False)
    with av.open(str(path)) as container:
        assert not container.streams.audio


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_track_is_as_long_as_its_clip_and_the_same_every_time(rate: int) -> None:
    first, second = track(RED_MOVES, rate), track(RED_MOVES, rate)
    assert len(first) == 2 * rate
    assert np.array_equal(first, second)
    assert np.abs(first).max() <= 1
