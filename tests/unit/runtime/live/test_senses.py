from __future__ import annotations

import threading
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.live.played import FastClock, PlayedCamera, PlayedMicrophone
from vllama.runtime import change
from vllama.runtime.bundle import find_bundle, open_bundle
from vllama.runtime.encoders import Encoders
from vllama.runtime.live import senses
from vllama.runtime.live.senses import Hearing, Seeing
from vllama.runtime.spec import AudioSpec
from vllama.runtime.timeline import ClipFeature, FrameFeature
from vllama.runtime.types import Float32, Frame


@pytest.fixture(scope="module")
def audio() -> AudioSpec:
    spec = open_bundle(find_bundle("miniature")).spec.audio
    assert spec is not None
    return spec


@pytest.fixture
def clock() -> FastClock:
    return FastClock()


def _seeing(camera: PlayedCamera, encoders: Encoders, kept: list[FrameFeature], fps: float = 4.0) -> Seeing:
    return Seeing(camera, encoders, camera.clock, kept.append, fps=fps, answers=lambda: False, dtype="float16")


def _see(seeing: Seeing, clock: FastClock, seconds: float, every: float = 0.05) -> None:
    for _ in range(round(seconds / every)):
        clock.advance(every)
        if seeing.wait <= 0:
            seeing.step()


@pytest.fixture
def sounds() -> list[ClipFeature]:
    """What `hearing` keeps."""
    return []


@pytest.fixture
def hearing(
    encoders: Encoders, audio: AudioSpec, sound_file: Path, clock: FastClock, sounds: list[ClipFeature]
) -> Hearing:
    """The sound file, played."""
    return _hearing(PlayedMicrophone(sound_file, 16000, clock), encoders, audio, sounds)


def test_pictures_are_taken_at_a_steady_rate_whatever_the_camera_gives(
    encoders: Encoders, clip: Path, clock: FastClock
) -> None:
    kept: list[FrameFeature] = []
    seeing = _seeing(PlayedCamera(clip, 56, clock), encoders, kept, fps=1.0)
    _see(seeing, clock, 2.0)
    assert 0.9 < seeing.rate < 1.6
    _see(seeing, clock, 14.0)
    times = [frame.time for frame in kept]
    assert len(times) == pytest.approx(16, abs=1)
    assert np.diff(times) == pytest.approx(1.0, abs=0.2)
    assert seeing.rate == pytest.approx(1.0, abs=0.3)
    assert [frame.index for frame in kept] == [round(1000 * time) for time in times]


def test_a_picture_of_a_slow_camera_is_taken_once(
    encoders: Encoders, clip: Path, clock: FastClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senses, "_WAIT_SECONDS", 0.0)
    kept: list[FrameFeature] = []
    seeing = _seeing(PlayedCamera(clip, 56, clock), encoders, kept, fps=40.0)
    _see(seeing, clock, 2.0, every=0.0125)
    times = [frame.time for frame in kept]
    assert times == pytest.approx(np.arange(len(times)) / 10, abs=1e-6)
    assert len(times) == pytest.approx(20, abs=1)
    assert seeing.rate == pytest.approx(10.0, abs=0.6)


def test_a_picture_without_anything_new_has_the_features_of_the_one_before(
    encoders: Encoders, still_clip: Path, clock: FastClock
) -> None:
    kept: list[FrameFeature] = []
    seeing = _seeing(PlayedCamera(still_clip, 56, clock), encoders, kept)
    _see(seeing, clock, 3.0)
    assert (seeing.encoded, seeing.still) == (1, len(kept) - 1)
    assert len(kept) > 8
    assert all(frame.features is kept[0].features for frame in kept)
    assert len({frame.time for frame in kept}) == len(kept)
    seeing.forget()
    _see(seeing, clock, 1.0)
    assert seeing.encoded == 2
    assert kept[-1].features is not kept[0].features


def test_what_is_forgotten_while_it_becomes_the_reference_is_forgotten(
    encoders: Encoders, still_clip: Path, clock: FastClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[FrameFeature] = []
    seeing = _seeing(PlayedCamera(still_clip, 56, clock), encoders, kept)
    others: list[threading.Thread] = []

    class Slow(change.Glance):
        def __init__(self, pixels: NDArray[np.uint8]) -> None:
            super().__init__(pixels)
            if not others:
                others.append(threading.Thread(target=seeing.forget))
                others[0].start()
                others[0].join(0.2)

    monkeypatch.setattr(change, "Glance", Slow)
    clock.advance(0.05)
    seeing.step()
    others[0].join()
    _see(seeing, clock, 1.0)
    assert seeing.encoded == 2


def test_what_is_forgotten_while_it_is_encoded_is_forgotten(
    encoders: Encoders, still_clip: Path, clock: FastClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[FrameFeature] = []
    seeing = _seeing(PlayedCamera(still_clip, 56, clock), encoders, kept)
    encode = encoders.frame_features

    def interrupted(frames: list[Frame]) -> Float32:
        if not seeing.encoded:
            seeing.forget()
        return encode(frames)

    monkeypatch.setattr(encoders, "frame_features", interrupted)
    _see(seeing, clock, 2.0)
    assert seeing.encoded == 2


def test_pictures_that_were_looked_at_late_are_not_made_up_for_nor_delay_the_next(
    encoders: Encoders, clip: Path, clock: FastClock
) -> None:
    kept: list[FrameFeature] = []
    seeing = _seeing(PlayedCamera(clip, 56, clock), encoders, kept)
    _see(seeing, clock, 8.0, every=0.1)
    assert len(kept) == pytest.approx(32, abs=2)
    before = len(kept)
    clock.advance(20.0)
    _see(seeing, clock, 2.0, every=0.1)
    assert len(kept) - before <= 10


@pytest.fixture
def dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """To encode a picture, or a stretch of sound, takes a second."""
    seconds = count()
    monkeypatch.setattr(senses, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))


def test_pictures_that_are_dear_to_encode_come_as_seldom_as_the_pace_says(
    encoders: Encoders, clip: Path, clock: FastClock, dear: None
) -> None:
    kept: list[FrameFeature] = []
    _see(_seeing(PlayedCamera(clip, 56, clock), encoders, kept), clock, 10.0)
    assert len(kept) == pytest.approx(5, abs=1)


def test_sounds_that_are_dear_to_encode_are_left_out_and_counted(
    dear: None, hearing: Hearing, sounds: list[ClipFeature], clock: FastClock
) -> None:
    _hear(hearing, clock, 8.5)
    assert [clip.start for clip in sounds] == [0.0, 2.0, 4.0, 6.0]
    assert (hearing.encoded, hearing.left_out) == (4, 12)


def test_a_stretch_of_sound_that_is_late_by_one_is_not_left_out(
    hearing: Hearing, sounds: list[ClipFeature], clock: FastClock
) -> None:
    _hear(hearing, clock, 2.1)
    clock.advance(1.0)
    hearing.step()
    hearing.step()
    assert [clip.start for clip in sounds] == [0.0, 0.5, 1.0]
    assert hearing.left_out == 0


def test_moving_pictures_are_encoded_each(encoders: Encoders, clip: Path, clock: FastClock) -> None:
    kept: list[FrameFeature] = []
    seeing = _seeing(PlayedCamera(clip, 56, clock), encoders, kept)
    _see(seeing, clock, 3.0)
    assert seeing.encoded == len({id(frame.features) for frame in kept}) == len(kept) > 8


def test_a_paused_camera_shows_nothing(encoders: Encoders, clip: Path, clock: FastClock) -> None:
    kept: list[FrameFeature] = []
    camera = PlayedCamera(clip, 56, clock)
    seeing = _seeing(camera, encoders, kept)
    _see(seeing, clock, 1.0)
    seen = len(kept)
    camera.pause()
    _see(seeing, clock, 2.0)
    assert len(kept) == seen
    camera.resume()
    _see(seeing, clock, 1.0)
    assert kept[seen].time >= 3.0


def _hearing(microphone: PlayedMicrophone, encoders: Encoders, spec: AudioSpec, kept: list[ClipFeature]) -> Hearing:
    return Hearing(microphone, encoders, spec, kept.append, answers=lambda: False, dtype="float16")


def _hear(hearing: Hearing, clock: FastClock, seconds: float) -> None:
    for _ in range(round(seconds * 20)):
        clock.advance(0.05)
        if hearing.wait <= 0:
            hearing.step()


def test_stretches_of_sound_begin_each_quarter_of_their_length(
    hearing: Hearing, sounds: list[ClipFeature], clock: FastClock
) -> None:
    _hear(hearing, clock, 6.1)
    assert [(clip.start, clip.end) for clip in sounds] == [(number / 2, number / 2 + 2.0) for number in range(9)]
    assert (hearing.encoded, hearing.left_out) == (9, 0)


def test_sound_after_a_gap_begins_where_it_is_heard_again(
    encoders: Encoders, audio: AudioSpec, sound_file: Path, clock: FastClock
) -> None:
    kept: list[ClipFeature] = []
    microphone = PlayedMicrophone(sound_file, 16000, clock)
    hearing = _hearing(microphone, encoders, audio, kept)
    _hear(hearing, clock, 3.5)
    microphone.pause()
    _hear(hearing, clock, 4.0)
    microphone.resume()
    resumed = clock.now()
    _hear(hearing, clock, 3.1)
    assert [clip.start for clip in kept[:3]] == [0.0, 0.5, 1.0]
    assert kept[3].start == pytest.approx(resumed, abs=0.01)
    assert all(clip.end <= 3.5 or clip.start >= resumed - 0.01 for clip in kept)


def test_to_ask_how_long_to_wait_changes_nothing(hearing: Hearing, sounds: list[ClipFeature], clock: FastClock) -> None:
    _hear(hearing, clock, 2.1)
    clock.advance(20.0)
    before = hearing.left_out
    assert (hearing.wait, hearing.left_out) == (0.0, before)
    hearing.step()
    assert hearing.left_out > before + 10


def test_where_encoding_falls_behind_the_newest_sound_is_taken(
    hearing: Hearing, sounds: list[ClipFeature], clock: FastClock
) -> None:
    _hear(hearing, clock, 2.1)
    clock.advance(20.0)
    hearing.step()
    assert hearing.left_out > 10
    assert clock.now() - sounds[-1].end < 2.0, sounds[-1]
    before = len(sounds)
    _hear(hearing, clock, 5.0)
    assert len(sounds) - before >= 5
