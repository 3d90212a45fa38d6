"""The microphone on a sound server of this machine's own."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.live.pulse import RATE, Pulse, click, missing, read_wav
from vllama.runtime.capture import microphone as module
from vllama.runtime.capture.clock import Clock
from vllama.runtime.capture.microphone import Microphone, _Ear
from vllama.runtime.capture.sound_ring import SoundRing
from vllama.runtime.capture.sound_source import Block
from vllama.runtime.errors import DeviceError
from vllama.runtime.resample import Resampler

PATIENCE = 20.0
Open = Callable[..., Microphone]


@pytest.fixture(scope="module")
def pulse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulse]:
    if missing():
        pytest.skip(missing())
    with Pulse(tmp_path_factory.mktemp("pulse")) as pulse:
        yield pulse


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_microphone(pulse: Pulse, clock: Clock) -> Iterator[Open]:
    """Open microphones that are closed at the end, and leave no thread."""
    opened: list[Microphone] = []

    def opener(
        device: str = "pulse", sample_rate: int = RATE, note: Callable[[str], None] = lambda text: None
    ) -> Microphone:
        opened.append(Microphone(device, sample_rate, clock, note))
        return opened[-1]

    yield opener
    for microphone in opened:
        microphone.close()
    assert {microphone.name for microphone in opened}.isdisjoint(thread.name for thread in threading.enumerate())


def offset(clock: Clock) -> float:
    return time.monotonic() - clock.now()


def test_speech_is_heard_as_it_was_said(pulse: Pulse, open_microphone: Open, clock: Clock) -> None:
    microphone = open_microphone()
    begun = pulse.say("one two three") - offset(clock)
    spoken = read_wav(pulse.speech, RATE)
    heard = microphone.clip(begun - 0.2, len(spoken) / RATE + 0.4, PATIENCE)
    assert heard is not None, microphone.status
    assert heard.data.dtype == np.float32
    assert heard.data.shape == (1, len(spoken) + round(0.4 * RATE))
    assert heard.sample_rate == RATE
    alike = np.correlate(heard.data[0], spoken, "valid")
    place = int(np.argmax(alike))
    assert heard.start + place / RATE == pytest.approx(begun, abs=0.1)
    part = heard.data[0, place : place + len(spoken)]
    assert np.corrcoef(part, spoken)[0, 1] > 0.99


@pytest.mark.parametrize("rate", [16000, 22050])
def test_a_click_is_heard_at_the_moment_it_was_made(
    pulse: Pulse, open_microphone: Open, clock: Clock, rate: int
) -> None:
    microphone = open_microphone(sample_rate=rate)
    apart = []
    for _ in range(3):
        made = pulse.speaker().play(click(), time.monotonic() + 0.6) - offset(clock)
        heard = microphone.clip(made - 0.3, 0.6, PATIENCE)
        assert heard is not None, microphone.status
        apart.append(heard.start + int(np.argmax(np.abs(heard.data[0]) > 0.2)) / rate - made)
    assert np.abs(np.median(apart)) < 0.1, apart


def test_a_clip_is_waited_for_until_it_was_heard_and_not_longer_than_asked(open_microphone: Open, clock: Clock) -> None:
    microphone = open_microphone()
    start = clock.now()
    assert microphone.clip(start, 5.0, 0.1) is None
    clip = microphone.clip(start, 0.5, PATIENCE)
    assert clip is not None
    assert clip.start == pytest.approx(start, abs=0.02)
    assert start + 0.5 <= clock.now() < start + PATIENCE / 2


def test_no_more_than_the_newest_seconds_are_kept(open_microphone: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT_SECONDS", 1.0)
    microphone = open_microphone()
    time.sleep(1.6)
    heard = microphone.heard()
    assert heard is not None
    assert heard[1] - heard[0] == pytest.approx(1.0, abs=0.01)
    assert microphone.clip(heard[0] - 0.5, 0.5, 0.0) is None
    assert len(microphone._ring._data) == RATE


def test_a_paused_microphone_is_let_go_and_what_follows_is_another_stretch(
    pulse: Pulse, open_microphone: Open, clock: Clock
) -> None:
    microphone = open_microphone()
    time.sleep(0.5)
    microphone.pause()
    paused, status = clock.now(), microphone.status
    assert status.state == "paused"
    assert pulse.listeners() == 0
    assert microphone.clip(paused, 0.3, PATIENCE) is None
    microphone.resume()
    end = time.monotonic() + PATIENCE
    while microphone.status.state != "on":
        assert time.monotonic() < end
        time.sleep(0.02)
    assert pulse.listeners() == 1
    heard = microphone.heard()
    assert heard is not None
    assert heard[0] >= paused - 0.1
    assert microphone.clip(paused - 0.2, 0.4, PATIENCE) is None  # across the pause


@pytest.mark.parametrize("device", ["default", "0", "PULSE", "mic.monitor", "Monitor of mic", "loopback"])
def test_every_name_that_is_listed_opens_it(open_microphone: Open, device: str) -> None:
    microphone = open_microphone(device)
    assert microphone.status.state == "on"
    assert microphone.status.seen > 0


def test_loopback_and_a_named_source_hear_what_is_played_not_the_default_source(
    pulse: Pulse, open_microphone: Open, clock: Clock
) -> None:
    with pulse.other_source():
        loud = {}
        for device in ("default", "loopback", "mic.monitor"):
            microphone = open_microphone(device)
            made = pulse.speaker().play(click(), time.monotonic() + 0.6) - offset(clock)
            heard = microphone.clip(made - 0.3, 0.6, PATIENCE)
            assert heard is not None, microphone.status
            loud[device] = bool(np.abs(heard.data).max() > 0.2)
            microphone.close()
    assert loud == {"default": False, "loopback": True, "mic.monitor": True}


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("99", "99: there is no such microphone; `vllama devices` lists them"),
        ("ghost", "ghost: there is no such microphone; `vllama devices` lists them"),
        ("u", "u: fits default and pulse; use the whole name"),
    ],
)
def test_what_cannot_be_opened_is_one_line(pulse: Pulse, clock: Clock, device: str, said: str) -> None:
    before = threading.enumerate()
    with pytest.raises(DeviceError) as raised:
        Microphone(device, RATE, clock, print)
    assert str(raised.value) == said
    assert threading.enumerate() == before


def test_a_rate_that_the_device_refuses_is_made_from_its_own(open_microphone: Open, clock: Clock) -> None:
    refused = 1_000_000
    microphone = open_microphone(sample_rate=refused)
    clip = microphone.clip(clock.now(), 0.3, PATIENCE)
    assert clip is not None, microphone.status
    assert (clip.sample_rate, clip.data.shape) == (refused, (1, 300_000))


@pytest.mark.parametrize(("device", "said"), [("default", 1), ("loopback", 0)])
def test_only_zeros_are_said_once_where_they_mean_that_it_is_not_allowed(
    open_microphone: Open, monkeypatch: pytest.MonkeyPatch, device: str, said: int
) -> None:
    monkeypatch.setattr(module, "_DENIED_IS_SILENT", (sys.platform,))
    monkeypatch.setattr(module, "_ZERO_SECONDS", 0.1)
    notes: list[str] = []
    microphone = open_microphone(device, note=notes.append)
    time.sleep(0.5)
    microphone.close()
    wanted = f"{device}: gives only silence; allow the microphone in the system's privacy settings, or turn it on"
    assert notes == [wanted] * said


def test_a_microphone_that_was_heard_may_be_silent_later(
    pulse: Pulse, open_microphone: Open, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DENIED_IS_SILENT", (sys.platform,))
    monkeypatch.setattr(module, "_ZERO_SECONDS", 0.7)
    notes: list[str] = []
    made = pulse.speaker().play(click(), time.monotonic() + 0.4) - offset(clock)
    microphone = open_microphone(note=notes.append)
    assert microphone.clip(made + 0.5, 0.8, PATIENCE) is not None
    assert notes == []


def blocks(sound: np.ndarray, rate: int, size: int) -> list[Block]:
    starts = range(0, len(sound), size)
    return [Block(first, first / rate, sound[first : first + size], False) for first in starts]


@pytest.mark.parametrize(("rate", "target"), [(44100, 16000), (48000, 16000), (8000, 16000), (16000, 16000)])
def test_a_tone_in_blocks_is_resampled_without_seams(rate: int, target: int) -> None:
    time = np.arange(3 * rate) / rate
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    ring = SoundRing(target, 10.0)
    ear = _Ear(rate, ring)
    assert sum(ear.take(block) for block in blocks(tone, rate, 441)) == 0
    resampler = Resampler(rate, target)
    whole = np.concatenate((resampler.push(tone[None]), resampler.finish()), 1)[0]
    found = ring.clip(0.0, ring._count)
    assert isinstance(found, tuple)
    assert ring._count > 2.9 * target
    np.testing.assert_allclose(found[1], whole[: ring._count], atol=1e-6)


def test_a_hole_is_counted_and_begins_another_stretch() -> None:
    ring = SoundRing(100, 60.0)
    ear = _Ear(100, ring)
    sound = np.zeros(10, np.float32)
    for number in range(20):
        ear.take(Block(10 * number, 0.1 * number, sound, False))
    assert ear.take(Block(200, 2.5, sound, True)) == 50
    assert ring.heard() == pytest.approx((2.5, 2.6))
    assert ring.clip(1.8, 50) is None


def test_blocks_that_nobody_took_are_a_hole() -> None:
    ring = SoundRing(100, 60.0)
    ear = _Ear(100, ring)
    sound = np.zeros(10, np.float32)
    ear.take(Block(0, 0.0, sound, False))
    assert ear.take(Block(500, 5.0, sound, False)) == 490
    assert ring.heard() == pytest.approx((5.0, 5.1))
