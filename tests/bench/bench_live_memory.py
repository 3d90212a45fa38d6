"""Ten hours of a camera and a microphone at speed: what is kept, what it takes, what a question about it costs.

    python tests/bench/bench_live_memory.py [--hours 10] [--megabytes 256] [--seen CLIP]

Features of full size (32 x 768 and 1024 numbers, float16) come four and two a second, five minutes of change and five
of none in turn. After every hour: what is kept, the process's own memory, whether the last minute is whole, the largest
gap, and the time of choosing what a question looks at. --seen also drives the real senses on a clip, with the
miniature's encoders, on a clock that only they move.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

from vllama.runtime.bundle import find_bundle, open_bundle
from vllama.runtime.encoders import Encoders
from vllama.runtime.live.live_chat import around
from vllama.runtime.live.senses import Hearing, Seeing
from vllama.runtime.timeline import Budget, ClipFeature, FrameFeature, Timeline
from vllama.runtime.types import Span

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.live.played import FastClock, PlayedCamera, PlayedMicrophone

_FPS, _SOUNDS, _STEP = 4, 2, 0.25  # pictures and stretches of sound a second


def main() -> None:
    """Simulate, print a row an hour."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=10)
    parser.add_argument("--megabytes", type=float, default=256)
    parser.add_argument("--seen", type=Path, help="a clip for the real senses")
    given = parser.parse_args()
    budget = Budget(bytes=int(given.megabytes * 1e6))
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
    header = ("hour", "pictures", "sounds", "MB kept", "MB process", "newest whole", "largest gap s", "choose ms")
    print(" ".join(f"{name:>13}" for name in header))
    timeline = Timeline("", "", "video", 0, 0.0, 1000.0, sound=True, live=True, budget=budget)
    begun = time.perf_counter()
    for hour in range(given.hours):
        fill(timeline, hour)
        row(hour + 1, timeline)
    each = (time.perf_counter() - begun) / given.hours / 3600 / (_FPS + _SOUNDS) * 1e6
    print(f"{each:.0f} us for each that comes")
    found = [timeline.choose_frames(8, around(minute(m), timeline.duration)) for m in range(60 * given.hours)]
    print(f"of {len(found)} minutes asked about, something is kept near {sum(map(bool, found))}")
    if given.seen:
        senses(given.seen, given.hours, budget)


def fill(timeline: Timeline, hour: int) -> None:
    """One hour of features; those of full size are written, for memory that was never touched takes no room."""
    still, clip = np.ones((32, 768), np.float16), np.ones(1024, np.float16)
    for number in range(3600 * _FPS):
        moment = 3600 * hour + number / _FPS
        moving = number // (300 * _FPS) % 2
        timeline.add_frame(FrameFeature(round(1000 * moment), moment, still.copy() if moving else still))
        if number % (_FPS // _SOUNDS) == 0 and moment >= 2.0:
            timeline.add_clip(ClipFeature(moment - 2.0, moment, clip.copy()))


def row(hour: int, timeline: Timeline) -> None:
    """How it stands after an hour."""
    newest = timeline.frames_in(Span.last(60.0))
    whole = len(newest) == 60 * _FPS + 1
    times = np.array([frame.time for frame in timeline.frames_in()])
    begun = time.perf_counter()
    timeline.add_frame(FrameFeature(newest[-1].index, newest[-1].time, newest[-1].features))  # so that it sorts again
    timeline.choose_frames(8, Span.last(10.0))
    timeline.choose_clips(8, 2.0, Span.last(10.0))
    choosing = 1000 * (time.perf_counter() - begun)
    cells = (
        hour, timeline.frame_count, timeline.clip_count, f"{timeline.bytes / 1e6:.1f}", f"{process_mb():.0f}",
        "yes" if whole else "NO", f"{np.diff(times).max():.1f}", f"{choosing:.1f}",
    )  # fmt: skip
    print(" ".join(f"{cell:>13}" for cell in cells), flush=True)


def senses(clip: Path, hours: int, budget: Budget) -> None:
    """The same through `Seeing` and `Hearing`, at speed."""
    bundle = open_bundle(find_bundle("miniature"))
    assert bundle.spec.audio is not None
    timeline = Timeline("", "", "video", 0, 0.0, 1000.0, sound=True, live=True, budget=budget)
    clock = FastClock()
    camera, microphone = PlayedCamera(clip, 56, clock), PlayedMicrophone(clip, 16000, clock)

    def keep_sound(feature: ClipFeature) -> None:
        timeline.add_clip(feature)

    with Encoders(bundle) as encoders:
        seeing = Seeing(
            camera, encoders, clock, timeline.add_frame, fps=_FPS, answers=lambda: False, dtype="float16"
        )  # fmt: skip
        hearing = Hearing(
            microphone, encoders, bundle.spec.audio, keep_sound, answers=lambda: False, dtype="float16"
        )  # fmt: skip
        print("the same through the miniature's senses")
        for hour in range(hours):
            for number in range(3600 * _FPS):
                clock.advance(_STEP)
                if number % (600 * _FPS) == 300 * _FPS:  # five minutes of ten the device is closed
                    camera.pause()
                elif number % (600 * _FPS) == 0:
                    camera.resume()
                if camera.state == "on" and seeing.wait <= 0:
                    seeing.step()
                if hearing.wait <= 0:
                    hearing.step()
                timeline.reach(clock.now())
            newest = timeline.choose_clips(8, 2.0, Span.last(10.0))
            print(
                f"hour {hour + 1}: {timeline.frame_count} pictures of {seeing.encoded + seeing.still}, "
                f"{timeline.clip_count} sounds of {hearing.encoded}, {timeline.bytes / 1e6:.1f} MB kept, "
                f"{process_mb():.0f} MB process, newest sound {timeline.duration - newest[-1].end:.1f} s ago",
                flush=True,
            )


def minute(number: int) -> Span:
    return Span(60.0 * number, 60.0 * number + 60.0)


def process_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
