"""Peak memory of indexing a short and a long video of the same kind, and their ratio.

    python tests/bench/bench_index_memory.py --model BUNDLE [--short 60] [--long 600] [--fps 1] [--no-audio]

The videos are made by repeating one encoded minute; each is indexed by a fresh process with an empty cache. The bundle
was opened before: the first time, all of it is read through, and what is mapped of a file counts until it is let go.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

_OPEN = "import sys; from vllama.runtime import Engine; Engine.open(sys.argv[1], answers=False).close()"
_INDEX = """
import resource, sys, time
from vllama.runtime import Engine
with Engine.open(sys.argv[1], threads=int(sys.argv[4]), answers=False) as engine:
    opened = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    timeline = engine.index(sys.argv[2], fps=float(sys.argv[3]), audio=sys.argv[5] == "True", must_save=True)
print(opened, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, timeline.encoded, timeline.encode_ms)
"""


def main() -> None:
    """Make both videos, index them, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="a bundle: its folder")
    parser.add_argument("--short", type=int, default=60, help="seconds")
    parser.add_argument("--long", type=int, default=600, help="seconds")
    parser.add_argument("--fps", type=float, default=1.0, help="pictures encoded per second")
    parser.add_argument("--rate", type=int, default=25, help="pictures per second of the videos")
    parser.add_argument("--size", type=int, nargs=2, default=(160, 120), help="width and height of the videos")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--audio", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    print(f"{'video':>8} {'opened MB':>10} {'peak MB':>8} {'features':>9} {'seconds':>8}")
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        minute = _minute(Path(folder) / "minute.mp4", given.rate, *given.size)
        for seconds in (given.short, given.long):
            video = _repeated(minute, Path(folder) / f"{seconds}.mp4", seconds)
            environment = {**os.environ, "VLLAMA_CACHE": str(Path(folder) / f"cache-{seconds}")}
            subprocess.run([sys.executable, "-c", _OPEN, given.model], env=environment, check=True)
            options = [str(given.fps), str(given.threads), str(given.audio)]
            command = [sys.executable, "-c", _INDEX, given.model, str(video), *options]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            opened, peak, features, milliseconds = done.stdout.split()
            peaks.append(int(peak))
            row = f"{int(opened) / 1024:>10.1f} {int(peak) / 1024:>8.1f} {features:>9}"
            print(f"{seconds:>6} s {row} {float(milliseconds) / 1000:>8.1f}", flush=True)
    print(f"ratio of the peaks: {peaks[1] / peaks[0]:.3f} ({time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores)")


def _minute(path: Path, rate: int, width: int, height: int) -> Path:
    """A minute of a moving bar and of a rising tone."""
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate, options={"crf": "30", "preset": "ultrafast", "g": str(rate * 2)})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.max_b_frames = 0
        audio = container.add_stream("aac", 44100, layout="mono")
        for index in range(60 * rate):
            pixels = np.full((height, width, 3), (40, 60, 90), np.uint8)
            left = index * 2 % width
            pixels[:, left : left + 8] = (230, 180, 40)
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(video.encode())
        seconds = np.arange(60 * 44100) / 44100
        tone = (0.3 * np.sin(2 * np.pi * (200 + 5 * seconds) * seconds)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(tone[None], "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path


def _repeated(minute: Path, path: Path, seconds: int) -> Path:
    """The minute again and again, packets copied."""
    with av.open(path, "w") as target:
        streams = None
        for turn in range(-(-seconds // 60)):
            with av.open(minute) as source:
                streams = streams or {s.index: target.add_stream_from_template(s) for s in source.streams}
                for packet in source.demux():
                    if packet.pts is None or packet.dts is None:
                        continue
                    assert packet.time_base is not None
                    shift = round(turn * 60.1 / packet.time_base)  # a little more than the sound is long
                    if float(packet.pts * packet.time_base) + turn * 60.1 >= seconds:
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = streams[packet.stream.index]
                    target.mux(packet)
    return path


if __name__ == "__main__":
    main()
