from __future__ import annotations

from random import Random

import pytest

from vllama.export.mini.facts import audio_facts, caption, video_facts
from vllama.export.mini.sampler import INSTANT, MOVES, sample_clip, sample_long_clip, zone
from vllama.export.mini.world import Clip, Event, Sound, Thing, state

FRAMES = [i / 8 for i in range(8)]


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    rng = Random(11)
    return [sample_clip(rng) for _ in range(200)]


def test_colours_and_shapes_within_a_clip_differ(clips: list[Clip]) -> None:
    for clip in clips:
        turned = [event.colour for event in clip.events if event.colour]
        colours = [thing.colour for thing in clip.things] + turned
        assert len({thing.shape for thing in clip.things}) == len(clip.things), clip
        assert len(colours) == len(set(colours)) or len(turned) == 2, clip


def test_eight_frames_show_every_event(clips: list[Clip]) -> None:
    for clip in clips:
        for event in clip.events:
            seen = {state(clip, event.thing, time) for time in FRAMES}
            assert len(seen) > 1, (clip, event)
            assert event.end <= 0.875, event


def test_frames_show_the_way_of_a_move(clips: list[Clip]) -> None:
    for clip in clips:
        for event in clip.events:
            if event.action in MOVES:
                before, after = state(clip, event.thing, event.start), state(clip, event.thing, 0.875)
                dx, dy = after.x - before.x, after.y - before.y
                way = {"left": -dx, "right": dx, "up": -dy, "down": dy}[event.action.split()[1]]
                assert way > 0.3, (clip, event)


def test_sounds_end_before_the_last_piece_does(clips: list[Clip]) -> None:
    for clip in clips:
        heard_until = 1 - (clip.duration - 2) / 8 / clip.duration
        assert all(0 <= sound.start < sound.end <= heard_until for sound in clip.sounds), clip


def test_the_same_seed_makes_the_same_clip() -> None:
    assert sample_clip(Random(3)) == sample_clip(Random(3))


def test_a_long_clip_has_many_events_and_sounds() -> None:
    clip = sample_long_clip(Random(2), 90.0)
    assert clip.duration == 90.0
    assert len(clip.events) > 6
    assert len(clip.sounds) > 6
    assert all(event.end == event.start for event in clip.events if event.action in INSTANT)


def test_facts_and_caption_say_everything() -> None:
    things = (Thing("yellow", "cross", 0.8, 0.5, 0.1), Thing("orange", "star", 0.2, 0.2, 0.1))
    events = (Event(1, "turns", 0.3, 0.3, colour="red"), Event(0, "disappears", 0.8, 0.8))
    clip = Clip(0, 5.0, things, events, (Sound("beeps", 0.4, 0.5, 2),))
    assert video_facts(clip) == (
        "two: yellow cross right, orange star top left. orange star turns red at 2. yellow cross disappears at 6."
    )
    assert audio_facts(clip) == "two beeps at 3."
    assert caption(clip) == (
        "a yellow cross and an orange star; the orange star turns red then the yellow cross disappears."
    )


def test_facts_of_a_clip_where_nothing_happens() -> None:
    clip = Clip(0, 5.0, (Thing("red", "circle", 0.5, 0.5, 0.1),), (), ())
    assert (video_facts(clip), audio_facts(clip)) == ("one: red circle middle. nothing happens.", "silence.")


@pytest.mark.parametrize(("x", "y", "name"), [(0.2, 0.5, "left"), (0.5, 0.5, "middle"), (0.8, 0.2, "top right")])
def test_zones_are_named(x: float, y: float, name: str) -> None:
    assert zone(x, y) == name
