"""Timelines from which something was taken: what a model answers then, it did not see or hear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from .timeline import Timeline

Ablation = Callable[[Timeline, Timeline, int, Random], Timeline]


def shuffled(timeline: Timeline, other: Timeline, count: int, rng: Random) -> Timeline:
    """The whole clip's frames in a random order; their times stay in place."""
    frames = timeline.choose_frames(count)
    order = rng.sample(range(len(frames)), len(frames))
    copy = timeline.emptied()
    for frame, source in zip(frames, order, strict=True):
        copy.add_frame(replace(frame, features=frames[source].features))
    copy.replace_whole_clips(timeline.whole_clips)
    return copy


def silent(timeline: Timeline, other: Timeline, count: int, rng: Random) -> Timeline:
    """Without its sound."""
    copy = timeline.emptied()
    for frame in timeline.choose_frames(count):
        copy.add_frame(frame)
    return copy


def other_sound(timeline: Timeline, other: Timeline, count: int, rng: Random) -> Timeline:
    """With the sound of another clip."""
    copy = silent(timeline, other, count, rng)
    copy.replace_whole_clips(other.whole_clips)
    return copy


def nothing(timeline: Timeline, other: Timeline, count: int, rng: Random) -> Timeline:
    """Without any media: what is left is what the words of a question make likely."""
    return timeline.emptied()


ABLATIONS: dict[str, Ablation] = {
    "frames shuffled": shuffled,
    "no sound": silent,
    "other sound": other_sound,
    "no media": nothing,
}
