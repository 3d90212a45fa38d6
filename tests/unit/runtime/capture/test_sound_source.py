from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vllama.runtime.capture.clock import Clock
from vllama.runtime.capture.sound_source import SoundDevice, SoundSource, SoundStream, _listed, _opened
from vllama.runtime.errors import DeviceError

LATE = 2.0  # seconds within which a busy machine comes from one line to the next


def hear(stream: SoundStream, samples: np.ndarray, *, age: float, lossy: bool = False) -> None:
    """As PortAudio calls it, on a clock of its own."""
    times = SimpleNamespace(currentTime=1000.0, inputBufferAdcTime=1000.0 - age)
    stream.heard(samples.astype(np.float32).tobytes(), len(samples), times, SimpleNamespace(input_overflow=lossy))


def captured(age: float, frames: int = 1600) -> float:
    """How old a block of 16 kHz is taken for."""
    clock = Clock()
    stream = SoundStream(16000, 1, clock)
    now = clock.now()
    hear(stream, np.zeros(frames), age=age)
    (block,) = stream.read(0.0)
    return now - block.captured


def test_a_block_is_as_old_as_portaudio_says() -> None:
    assert 3.0 - LATE < captured(3.0) <= 3.0


@pytest.mark.parametrize("age", [0.0, -0.5, 1000.0])
def test_a_block_is_at_least_as_old_as_it_is_long(age: float) -> None:
    assert 3.0 - LATE < captured(age, frames=3 * 16000) <= 3.0


def test_stereo_becomes_mono_and_lost_sound_is_told() -> None:
    stream = SoundStream(16000, 2, Clock())
    hear(stream, np.array([[1.0, 0.0], [0.5, -0.5], [0.25, 0.75]]), age=0.0, lossy=True)
    hear(stream, np.zeros((5, 2)), age=0.0)
    first, second = stream.read(0.0)
    np.testing.assert_array_equal(first.data, np.array([0.5, 0.0, 0.5], np.float32))
    assert (first.first, first.lossy, second.first, second.lossy) == (0, True, 3, False)


def test_blocks_that_nobody_takes_do_not_pile_up_and_leave_a_hole_in_the_numbers() -> None:
    stream = SoundStream(16000, 1, Clock())
    for _ in range(1000):
        hear(stream, np.zeros(400), age=0.0)
    blocks = stream.read(0.0)
    assert len(blocks) == 400
    assert blocks[0].first == 600 * 400
    assert stream.read(0.0) == []


class PortAudio:
    """A library whose inputs start at 48000 Hz only, and are busy while one is open."""

    class PortAudioError(Exception):
        """As PortAudio's."""

    def __init__(self) -> None:
        self.open = 0

    def RawInputStream(self, rate: int, *args: Any, **options: Any) -> Any:
        if self.open:
            raise self.PortAudioError("Error opening RawInputStream: Device unavailable", -9985)
        self.open += 1
        return SimpleNamespace(start=lambda: self._start(rate), close=self._close)

    def query_hostapis(self) -> Any:
        raise self.PortAudioError("Error querying host API: Host error")

    def _start(self, rate: int) -> None:
        if rate != 48000:
            raise self.PortAudioError("Error starting stream: Invalid sample rate", -9997)

    def _close(self, *, ignore_errors: bool) -> None:
        self.open -= 1


def test_an_input_that_does_not_start_is_closed_before_another_rate_is_tried() -> None:
    library = PortAudio()
    device = SoundDevice(0, "mic", "ALSA", 1, 48000, True)
    _, sound = _opened(library, SoundSource("mic"), device, 16000, Clock())
    assert (sound.rate, library.open) == (48000, 1)


def test_devices_that_cannot_be_listed_are_one_line() -> None:
    with pytest.raises(DeviceError, match=r"^PortAudio cannot list the microphones \(.*Host error\); restart"):
        _listed(PortAudio())
