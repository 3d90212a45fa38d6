"""Camera and microphone played from files, several times as fast as time, through the miniature's encoders."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.live.played import FastClock, PlayedCamera, PlayedMicrophone
from tests.live.waiting import until
from vllama.runtime import BackendError, Budget, Engine, Live, Span, SpecError, Timeline
from vllama.runtime.encoders import Encoders
from vllama.runtime.timeline import ClipFeature, FrameFeature
from vllama.runtime.types import Frame, Samples

_SPEED = 3.0
_PIXELS = np.zeros((56, 56, 3), np.uint8)
_PATIENCE = 30.0


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.open("miniature", answers=False, threads=2) as engine:
        yield engine


@pytest.fixture
def follow(engine: Engine, clip: Path) -> Iterator[Callable[..., Live]]:
    opened: list[Live] = []

    def follow(*, film: Path = clip, camera: bool = True, microphone: bool = True, **options: object) -> Live:
        eye = PlayedCamera(film, 56, FastClock()) if camera else None
        ear = PlayedMicrophone(clip, 16000, FastClock()) if microphone else None
        clock = FastClock(_SPEED)
        for source in (eye, ear):
            if source is not None:
                source.clock = clock
        opened.append(engine.follow(eye, ear, clock, **options))  # type: ignore[arg-type]
        return opened[-1]

    yield follow
    for live in opened:
        live.close()


def test_both_are_followed_until_it_is_closed(follow: Callable[..., Live]) -> None:
    before = set(threading.enumerate())
    live = follow()
    assert {thread.name for thread in set(threading.enumerate()) - before} == {"camera", "microphone"}
    until(lambda: live.timeline.frame_count > 12 and live.timeline.clip_count > 3)
    status = live.status
    assert status.camera is not None
    assert status.microphone is not None
    assert (status.camera.state, status.microphone.state) == ("on", "on")
    assert status.encoded + status.still >= live.timeline.frame_count > 12
    assert status.seen_rate > 1.0
    assert 0 < status.held <= live.clock.now()
    assert status.bytes > 0
    live.close()
    live.close()
    assert not [thread for thread in threading.enumerate() if thread.name in ("camera", "microphone")]
    assert all(source.closed for source in live._sources.values())  # type: ignore[attr-defined]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread is no nicer than its process")
def test_the_encoders_threads_give_way(follow: Callable[..., Live]) -> None:
    live = follow()
    until(lambda: live.timeline.frame_count > 2)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    nice = [os.getpriority(os.PRIO_PROCESS, thread.native_id or 0) for thread in live._threads]
    assert nice == [max(own, 10)] * 2


@pytest.mark.parametrize(("camera", "kind"), [(True, "video"), (False, "audio")])
def test_one_of_them_is_enough(follow: Callable[..., Live], camera: bool, kind: str) -> None:
    live = follow(camera=camera, microphone=not camera)
    until(lambda: (live.timeline.frame_count if camera else live.timeline.clip_count) > 2)
    assert (live.timeline.kind, live.timeline.sound) == (kind, not camera)
    assert (live.status.camera is None, live.status.microphone is None) == (not camera, camera)
    assert live.timeline.frame_count * live.timeline.clip_count == 0


def test_what_is_paused_is_not_followed_and_time_goes_on(follow: Callable[..., Live]) -> None:
    live = follow()
    until(lambda: live.timeline.clip_count > 0 and live.timeline.frame_count > 2)
    live.pause("camera")
    paused = live.clock.now()
    until(lambda: live.clock.now() > paused + 5.0)
    assert live.timeline.choose_frames(8, Span(paused + 1.0, live.clock.now())) == []
    assert live.timeline.choose_clips(4, 2.0, Span(paused, live.clock.now()))
    live.pause()
    still = live.clock.now()
    until(lambda: live.timeline.duration > still + 2.0)
    assert live.picture() is None
    live.resume()
    resumed = live.clock.now()
    until(lambda: bool(live.timeline.choose_frames(8, Span(resumed, live.clock.now()))))
    assert live.picture() is not None


def test_what_is_forgotten_stays_forgotten_also_what_was_on_its_way(
    follow: Callable[..., Live], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = follow(microphone=False)
    until(lambda: live.timeline.frame_count > 4)
    inside, outside = threading.Event(), threading.Event()
    encode = live._encoders.frame_features

    def slowly(frames: Sequence[Frame]) -> np.ndarray:
        inside.set()
        outside.wait(_PATIENCE)
        return encode(frames)

    monkeypatch.setattr(live._encoders, "frame_features", slowly)
    assert inside.wait(_PATIENCE)
    now = live.clock.now()
    live.forget()
    outside.set()
    until(lambda: live.timeline.frame_count > 2)
    assert live.timeline.frames_in()[0].time > now
    assert live.timeline.held < live.clock.now() - now


@pytest.fixture
def unfed(engine: Engine) -> Iterator[Live]:
    """A minute and a half of nothing, with neither camera nor microphone: the test keeps features itself."""
    clock = FastClock()
    clock.advance(90.0)
    timeline = Timeline("", "", "video", 0, 0.0, 1000.0, sound=True, live=True)
    options: dict[str, Any] = {"camera": None, "microphone": None, "fps": 4.0, "dtype": "float16"}
    with Live(timeline, Encoders(engine.bundle), engine.spec, clock, **options) as live:
        yield live


def test_each_span_that_was_forgotten_stays_so_when_others_are_forgotten_after_it(unfed: Live) -> None:
    for start, end in ((80.0, 82.0), (85.0, 86.0), (0.0, 0.1)):
        unfed.forget(Span(start, end))
    for moment in (79.0, 80.0, 81.0, 82.0, 83.0, 85.5):
        unfed._keep(FrameFeature(round(1000 * moment), moment, np.zeros((2, 3), np.float16)))
    for start in (77.5, 79.0, 81.0, 82.5, 84.5):  # 79 and 84.5 end in what was forgotten
        unfed._keep(ClipFeature(start, start + 2.0, np.zeros(3, np.float16)))
    assert [frame.time for frame in unfed.timeline.frames_in()] == [79.0, 83.0]
    assert [clip.start for clip in unfed.timeline._clips.items.values()] == [77.5, 82.5]


def test_what_looks_like_a_forgotten_picture_is_encoded_anew(follow: Callable[..., Live], still_clip: Path) -> None:
    live = follow(film=still_clip, microphone=False)
    until(lambda: live.status.still > 1)
    assert live.status.encoded == 1
    live.forget()
    until(lambda: live.timeline.frame_count > 1)
    assert live.status.encoded == 2


def test_a_span_is_forgotten_and_the_rest_kept(follow: Callable[..., Live]) -> None:
    live = follow()
    until(lambda: live.timeline.duration > 8.0 and live.timeline.clip_count > 4)
    live.forget(Span(live.clock.now() + 5.0, live.clock.now() + 8.0))
    assert not live._forgotten, "what is to come is not refused when it comes"
    live.forget(Span(2.0, 4.0))
    times = [frame.time for frame in live.timeline.frames_in()]
    assert min(times) < 2.0 < 4.0 < max(times)
    assert not [time for time in times if 2.0 <= time <= 4.0]


def test_an_encoder_that_fails_is_said_once_and_the_other_sense_goes_on(
    follow: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    live = follow(note=said.append)

    def fail(frame: Frame) -> np.ndarray:
        raise BackendError("frames.onnx: out of memory; close something")

    monkeypatch.setattr(live._encoders, "frame_features", fail)
    until(lambda: bool(said))
    clips = live.timeline.clip_count
    until(lambda: live.timeline.clip_count > clips + 1)
    status = live.status.camera
    assert status is not None
    assert (status.state, "out of memory" in status.detail) == ("lost", True)
    assert said == ["the camera is no longer followed: frames.onnx: out of memory; close something"]


def test_an_error_that_is_a_defect_is_shown_as_such_and_the_other_sense_goes_on(
    follow: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    raised: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    live = follow(note=said.append)

    def fail(frames: Sequence[Frame]) -> np.ndarray:
        raise ZeroDivisionError("half of nothing")

    monkeypatch.setattr(live._encoders, "frame_features", fail)
    until(lambda: bool(raised))
    clips = live.timeline.clip_count
    until(lambda: live.timeline.clip_count > clips)
    status = live.status.camera
    assert status is not None
    assert (status.state, status.detail) == ("lost", "ZeroDivisionError: half of nothing")
    assert said == ["the camera is no longer followed: ZeroDivisionError: half of nothing"]
    assert [each.exc_type for each in raised] == [ZeroDivisionError]


@pytest.mark.parametrize(
    ("newest", "said"),
    [
        (
            lambda after, timeout: Frame(after + 1, 0.0, np.zeros((48, 64, 3), np.uint8)),
            "a picture is uint8 (48, 64, 3) and the encoder takes uint8 (56, 56, 3), RGB; stretch it to that",
        ),
        (lambda after, timeout: Frame(after + 1, float("nan"), _PIXELS), "ValueError: cannot convert float NaN to"),
        (lambda after, timeout: int("x"), "ValueError: invalid literal for int() with base 10: 'x'"),
    ],
)
def test_a_source_of_ones_own_that_fails_is_said_once_and_no_longer_followed(
    follow: Callable[..., Live], monkeypatch: pytest.MonkeyPatch, newest: Callable[..., Frame], said: str
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    monkeypatch.setattr(PlayedCamera, "newest", lambda camera, after, timeout: newest(after, timeout))
    notes: list[str] = []
    live = follow(microphone=False, note=notes.append)
    (thread,) = live._threads
    thread.join(_PATIENCE)
    assert not thread.is_alive()
    assert len(notes) == 1
    assert notes[0].startswith(f"the camera is no longer followed: {said}")
    assert live.status.camera is not None
    assert live.status.camera.state == "lost"


def test_sound_of_ones_own_at_another_rate_is_said(
    follow: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlayedMicrophone, "heard", lambda microphone: (0.0, 4.0))
    wrong = Samples(0.0, np.zeros((1, 88200), np.float32), 44100)
    monkeypatch.setattr(PlayedMicrophone, "clip", lambda microphone, start, seconds, timeout: wrong)
    notes: list[str] = []
    (thread,) = follow(camera=False, note=notes.append)._threads
    thread.join(_PATIENCE)
    said = "sound is at 44100 Hz and the encoder takes 16000 Hz; resample it"
    assert notes == [f"the microphone is no longer followed: {said}"]


def test_an_encoder_that_fails_while_it_is_closed_says_nothing(
    follow: Callable[..., Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    live = follow(microphone=False, note=said.append)
    inside = threading.Event()

    def fail(frames: Sequence[Frame]) -> np.ndarray:
        inside.set()
        assert live._stop.wait(_PATIENCE)
        raise BackendError("frames.onnx: it was closed; open it again")

    monkeypatch.setattr(live._encoders, "frame_features", fail)
    assert inside.wait(_PATIENCE)
    live.close()
    assert (live._failed, said) == ({"camera": "frames.onnx: it was closed; open it again"}, [])


def test_memory_stays_within_its_budget(follow: Callable[..., Live]) -> None:
    live = follow(budget=Budget(bytes=100_000))
    until(lambda: live.status.encoded > 40)
    assert live.timeline.bytes <= 100_000
    newest = live.timeline.frames_in(Span.last(1.5))
    assert len(newest) >= 3, newest


def test_nothing_to_follow_is_said(engine: Engine) -> None:
    with pytest.raises(SpecError, match="neither camera nor microphone"):
        engine.watch()
    with pytest.raises(SpecError, match="fps is 0"):
        engine.watch(camera="x.mp4", fps=0.0)
