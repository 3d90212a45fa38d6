"""What a question looks at, chosen from a timeline of drawn features with the Q-formers of the miniature."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest

from vllama.runtime.bundle import find_bundle, open_bundle
from vllama.runtime.encoders import Encoders
from vllama.runtime.memory import SHORT
from vllama.runtime.remembered import Remembered
from vllama.runtime.spec import ModelSpec
from vllama.runtime.timeline import ClipFeature, FrameFeature, Timeline
from vllama.runtime.types import Span
from vllama.runtime.view import Viewer

_RATE = 2.0


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return open_bundle(find_bundle("miniature")).spec


Made = Callable[..., Viewer]


@pytest.fixture
def made(encoders: Encoders, spec: ModelSpec) -> Made:
    """A viewer of so many pictures, two each second, and of no sound."""

    def make(count: int, kind: Literal["video", "image"] = "video", live: bool = False) -> Viewer:
        timeline = Timeline("m", "c", kind, count, count / _RATE, _RATE, sound=True, live=live, fps=_RATE)
        for index in range(count):
            timeline.add_frame(_frame(encoders, index))
        return Viewer(timeline, encoders, spec, audio=True)

    return make


def _frame(encoders: Encoders, index: int) -> FrameFeature:
    features = np.random.default_rng(index).standard_normal(encoders.frame_shape).astype(np.float32)
    return FrameFeature(index, index / _RATE, features)


def _sound(spec: ModelSpec, start: float) -> ClipFeature:
    assert spec.audio is not None
    features = np.random.default_rng(round(start)).standard_normal(spec.audio.encoder.output_size)
    return ClipFeature(start, start + spec.audio.clip_seconds, features.astype(np.float32))


def test_as_many_pictures_as_the_rule_takes_are_taken_as_they_are(made: Made) -> None:
    assert made(8).mode(None, "memory") == "frames"
    assert made(9).mode(None, "memory") == "memory"
    assert made(9, kind="image").mode(None, "memory") == "frames"


def test_frames_cover_a_span_with_one_each_four_seconds(made: Made) -> None:
    viewer = made(80)
    assert viewer.mode(Span(0.0, 32.0), None) == "frames"
    assert viewer.mode(Span(0.0, 32.5), None) == "segments"  # as the entry of the miniature says
    assert viewer.mode(Span(0.0, 32.5), "frames") == "frames"


def test_what_others_asked_about_is_not_taken_for_the_whole(made: Made) -> None:
    viewer = made(80)
    viewer.timeline.fps = 0.0
    assert viewer.mode(None, None) == "frames"
    assert viewer.mode(None, "segments") == "segments"
    viewer.timeline.live = True
    assert viewer.mode(None, None) == "segments"


def test_a_moment_is_looked_at_alike_whatever_else_of_the_clip_was_encoded(made: Made, encoders: Encoders) -> None:
    viewer = made(8)
    assert viewer.mode(Span.at(2.0), "memory") == "frames"
    viewer.timeline.length = 9
    assert viewer.mode(Span.at(2.0), "memory") == "memory"
    viewer.timeline.forget(Span.whole())
    assert viewer.mode(Span.at(2.0), "memory") == "frames"


def test_a_moment_is_what_led_up_to_it_and_itself(made: Made) -> None:
    viewer = made(80)
    view = viewer.look(Span.at(30.0), "memory")
    assert view.frames_seen == 61
    assert view.frame_times[-SHORT - 1 :] == tuple((60 - SHORT + i) / _RATE for i in range(SHORT + 1))
    assert view.frame_times[0] == 0.0


def test_the_newest_before_a_moment_are_never_left_out(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllama.runtime.view._MOST_FRAMES", 20)
    view = made(80).look(Span.at(30.0), "memory")
    assert view.frames_seen == 20 + SHORT + 1
    assert view.frame_times[-SHORT - 1 :] == tuple((60 - SHORT + i) / _RATE for i in range(SHORT + 1))


def test_a_moment_before_the_first_picture_shows_that(made: Made, encoders: Encoders) -> None:
    viewer = made(0)
    for index in (4, 5, 6):
        viewer.timeline.add_frame(_frame(encoders, index))
    viewer.timeline.duration = 4.0
    assert viewer.look(Span.at(1.0), "memory").frame_times == (2.0,)


def test_what_was_looked_at_is_not_looked_at_again_until_something_came(
    made: Made, encoders: Encoders, spec: ModelSpec
) -> None:
    viewer = made(4, live=True)
    news: tuple[Callable[[], object], ...] = (
        lambda: viewer.timeline.add_frame(_frame(encoders, 4)),
        lambda: viewer.timeline.add_clip(_sound(spec, 0.0)),
        lambda: viewer.timeline.reach(9.0),
        lambda: viewer.timeline.replace_whole_clips((_sound(spec, 1.0),)),
    )
    for come in news:
        before = viewer.look(None, "frames")
        assert viewer.look(None, "frames") is before
        come()
        assert viewer.look(None, "frames") is not before


def test_no_view_outlives_what_it_was_made_of(made: Made) -> None:
    viewer = made(8)
    gone = weakref.ref(viewer.look(Span(0.0, 2.0), "frames"))
    viewer.look(Span(2.5, 4.0), "frames")
    assert gone() is not None
    viewer.timeline.forget(Span(0.0, 1.0))
    assert viewer.look(Span(0.0, 2.0), "frames").frame_times == (1.5,)
    assert gone() is None


def test_no_more_than_the_last_views_are_kept(made: Made) -> None:
    viewer = made(4)
    first = viewer.look(Span(0.0, 2.0), "frames")
    for end in range(3, 10):
        viewer.look(Span(0.0, float(end)), "frames")
    assert viewer.look(Span(0.0, 2.0), "frames") is first
    viewer.look(Span(0.0, 10.0), "frames")
    assert viewer.look(Span(0.0, 2.0), "frames") is not first
    assert len(viewer._views) == 8


def test_a_memory_of_the_whole_stands_for_the_pictures_it_was_made_of_alone(made: Made, encoders: Encoders) -> None:
    viewer = made(40)
    embeds = encoders.video_embeds(np.stack([_frame(encoders, 0).features])).data
    viewer.timeline.remembered = Remembered(embeds, (7.0,), 40)
    assert viewer.look(None, "memory").frame_times == (7.0,)
    assert viewer.look(Span(0.0, 20.0), "memory").frame_times != (7.0,)
    for index in range(40, 60):
        viewer.timeline.add_frame(_frame(encoders, index))
    view = viewer.look(None, "memory")
    assert (view.frames_seen, view.frame_times[0]) == (60, 0.0)


def test_the_prompt_tells_the_times_of_its_pictures_and_each_sound_once(made: Made, spec: ModelSpec) -> None:
    viewer = made(4)
    viewer.timeline.add_clip(_sound(spec, 0.0))
    view = viewer.look(Span(0.0, 2.0), "frames")
    assert (view.media.num_frames, view.media.seconds) == (4, "0.0, 0.5, 1.0, 1.5")
    assert view.frame_times == (0.0, 0.5, 1.0, 1.5)
    assert view.audio_spans == ((0.0, 2.0),)
    assert view.media.audio is not None


def test_of_a_span_the_pictures_own_times_are_told_and_of_the_whole_those_of_the_average_rate(made: Made) -> None:
    viewer = made(4)
    for number, frame in enumerate(viewer.timeline.frames_in()):
        viewer.timeline.add_frame(FrameFeature(frame.index, (0.0, 0.1, 1.74, 1.9)[number], frame.features))
    view = viewer.look(Span(0.0, 2.0), "frames")
    assert (view.media.seconds, view.frame_times) == ("0.0, 0.1, 1.7", (0.0, 0.1, 1.74))
    assert viewer.look(None, "frames").media.seconds == "0.0, 0.5, 1.0, 1.5"


def test_who_does_not_listen_hears_nothing(made: Made, encoders: Encoders, spec: ModelSpec) -> None:
    timeline = made(4).timeline
    timeline.add_clip(_sound(spec, 0.0))
    view = Viewer(timeline, encoders, spec, audio=False).look(Span(0.0, 2.0), "frames")
    assert (view.media.audio, view.audio_spans) == (None, ())
