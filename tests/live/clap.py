"""A clap: a white picture and a click at the same moment, and when each of them was captured."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from vllama.runtime.capture.camera import Camera
from vllama.runtime.capture.clock import Clock
from vllama.runtime.capture.microphone import Microphone

from .mjpeg import MjpegServer
from .pulse import Pulse, click

_AHEAD, _PATIENCE = 0.8, 20.0
_LOUD, _WHITE = 0.2, 200


@dataclass(frozen=True)
class Clap:
    """Seconds of the clock: when the picture was due and the click sounded, and when each was captured.

    Both are planned for the same moment; on a busy machine PulseAudio plays late, and says so.
    """

    flashed: float
    clicked: float
    seen: float
    heard: float

    @property
    def apart(self) -> float:
        """How much later the picture is on the clock than the click, had both been made at once."""
        return (self.seen - self.flashed) - (self.heard - self.clicked)


def clap(server: MjpegServer, pulse: Pulse, camera: Camera, microphone: Microphone, clock: Clock) -> Clap:
    """Make one and find it in both; the clip must not be white itself."""
    offset = time.monotonic() - clock.now()
    made = server.flash(_AHEAD)
    planned = pulse.speaker().play(click(pulse.rate), made)
    made -= offset
    frame = camera.newest(-1, _PATIENCE)
    while frame is not None and frame.pixels.min() < _WHITE:
        assert frame.time < made + _PATIENCE, "the flash was not seen"
        frame = camera.newest(frame.index, _PATIENCE)
    sound = microphone.clip(made - 0.3, 1.0, _PATIENCE)
    assert frame is not None, camera.status
    assert sound is not None, microphone.status
    loud = np.flatnonzero(np.abs(sound.data[0]) > _LOUD)
    assert len(loud), "the click was not heard"
    clicked = pulse.speaker().sounded(planned) - offset
    return Clap(made, clicked, frame.time, sound.start + int(loud[0]) / sound.sample_rate)
