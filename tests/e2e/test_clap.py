"""Camera and microphone on one clock; `tests/bench/bench_clap.py` measures it."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from tests.live.clap import clap
from tests.live.mjpeg import MjpegServer
from tests.live.pulse import RATE, Pulse, missing
from vllama.runtime.capture.camera import Camera
from vllama.runtime.capture.clock import Clock
from vllama.runtime.capture.microphone import Microphone


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_clap_is_seen_and_heard_at_the_same_moment(clip: Path, tmp_path: Path) -> None:
    clock = Clock()
    with MjpegServer(clip) as server, Pulse(tmp_path / "pulse") as pulse:
        camera = Camera(server.url, 56, clock, print)
        microphone = Microphone("default", RATE, clock, print)
        try:
            claps = [clap(server, pulse, camera, microphone, clock) for _ in range(5)]
        finally:
            camera.close()
            microphone.close()
    assert abs(statistics.median(one.apart for one in claps)) < 0.05, claps
    assert max(abs(one.apart) for one in claps) < 0.25, claps
