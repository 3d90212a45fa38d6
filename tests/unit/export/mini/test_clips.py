"""Clips as tensors: pictures without a file between, things in order."""

from __future__ import annotations

import torch

from vllama.export.mini.clips import FRAMES, frames_of, in_order, things_at
from vllama.export.mini.scenes import random_scenes
from vllama.export.mini.strangers import strangers
from vllama.export.mini.world import COLOURS, Clip, Event, Thing

CLIP = Clip(
    seed=3,
    duration=4.0,
    things=(Thing("white", "star", 0.8, 0.8, 0.15), Thing("red", "square", 0.3, 0.3, 0.16)),
    events=(Event(0, "appears", 0.6, 0.6), Event(1, "moves down", 0.1, 0.4, 0.4)),
    sounds=(),
)


def test_in_order_renumbers_events_with_their_things() -> None:
    ordered = in_order(CLIP)
    assert [thing.colour for thing in ordered.things] == ["red", "white"]
    assert [(event.thing, event.action) for event in ordered.events] == [(0, "moves down"), (1, "appears")]


def test_things_at_follow_the_events() -> None:
    things = things_at(CLIP, [0.0, 0.5, 0.9], 3)
    assert things.visible.tolist() == [[0, 1, 0], [0, 1, 0], [1, 1, 0]]
    assert torch.allclose(things.y[:, 1], torch.tensor([0.3, 0.7, 0.7]))
    assert COLOURS[things.colour[0, 1]] == "red"


def test_frames_of_show_a_thing_from_the_moment_it_appears() -> None:
    frames = frames_of([CLIP], torch.Generator().manual_seed(0))
    assert frames.shape == (FRAMES, 3, 56, 56)
    corner = frames[:, :, 43:47, 43:47].mean((1, 2, 3))
    assert corner[-1] > corner[0] + 0.2, corner


def test_scenes_know_what_covers_their_patches() -> None:
    scenes = random_scenes(6, torch.Generator().manual_seed(1), 0.3, strangers(1, 0)[0, :2] / 255)
    assert scenes.pixels.shape == (6, 3, 56, 56)
    assert torch.allclose(scenes.patch_colour.sum(1), torch.ones(6, 7, 7), atol=1e-4)
    assert scenes.foreign.tolist() == [0, 0, 0, 0, 1, 1]
    assert not scenes.present[-2:].any()
