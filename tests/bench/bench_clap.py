"""How far a clap in both streams lies from itself on the clock: a white picture and a click, made at the same moment.

    python tests/bench/bench_clap.py --clip CLIP [--claps 20]

The clip is sent as a network camera does (MJPEG over HTTP), the click is played into PulseAudio's null sink; Linux with
the packages of `.ci/run`.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.live.clap import clap
from tests.live.mjpeg import MjpegServer
from tests.live.pulse import RATE, Pulse
from vllama.runtime.capture.camera import Camera
from vllama.runtime.capture.clock import Clock
from vllama.runtime.capture.microphone import Microphone


def main() -> None:
    """Clap, print median and worst."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clip", type=Path, required=True, help="what the camera sees between the claps")
    parser.add_argument("--claps", type=int, default=20)
    given = parser.parse_args()
    clock, claps = Clock(), []
    with tempfile.TemporaryDirectory() as folder, MjpegServer(given.clip) as server, Pulse(Path(folder)) as pulse:
        camera = Camera(server.url, 224, clock, print)
        microphone = Microphone("default", RATE, clock, print)
        for _ in range(given.claps):
            claps.append(clap(server, pulse, camera, microphone, clock))
        dropped = microphone.status.dropped
        camera.close()
        microphone.close()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, ", end=""
    )
    print(f"{time.strftime('%Y-%m-%d')}; {len(claps)} claps, {dropped} samples lost")
    print(f"{'ms':>22} {'median':>8} {'least':>8} {'most':>8}")
    row("seen after flash", [clap.seen - clap.flashed for clap in claps])
    row("heard after click", [clap.heard - clap.clicked for clap in claps])
    row("click after flash", [clap.clicked - clap.flashed for clap in claps])
    row("picture after sound", [clap.apart for clap in claps])
    apart = [abs(clap.apart) for clap in claps]
    print(f"a clap from itself: median {1000 * statistics.median(apart):.1f} ms, worst {1000 * max(apart):.1f} ms")


def row(name: str, seconds: list[float]) -> None:
    """One line of the table."""
    values = (statistics.median(seconds), min(seconds), max(seconds))
    print(f"{name:>22} " + " ".join(f"{1000 * value:>8.1f}" for value in values))


if __name__ == "__main__":
    main()
