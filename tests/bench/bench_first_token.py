"""First token after the question, about a short and a long indexed video, cold, with the prefix kept, and read ahead.

    python tests/bench/bench_first_token.py --model BUNDLE --clip CLIP [--hours 1] [--rounds 7] [--long memory]

The long video repeats the clip's packets. Both are indexed first; then the same question is asked in turns, A B A B, in
one process. "ahead": the prompt's opening was read before the question came.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import av

from vllama.runtime import Engine, Timeline
from vllama.runtime.types import Long

QUESTION = "What does the person in the video do at the end?"


def main() -> None:
    """Index, ask in turns, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="a bundle: its folder or its name")
    parser.add_argument("--clip", type=Path, required=True, help="a short video")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--fps", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--long", choices=get_args(Long), help="how the long one is looked at; default: the model's own"
    )
    parser.add_argument("--audio", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Engine.open(given.model, threads=given.threads) as engine:
        os.environ["VLLAMA_CACHE"] = folder
        long = repeated(given.clip, Path(folder) / f"long{given.clip.suffix}", given.hours * 3600)
        videos = {"short": given.clip, "long": long}
        timelines = {name: engine.index(video, fps=given.fps, audio=given.audio) for name, video in videos.items()}
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(given.rounds):
            for name, timeline in timelines.items():
                for mode in ("cold", "ahead"):
                    found.setdefault((name, mode), []).append(
                        first_token(engine, timeline, ahead=mode == "ahead", audio=given.audio, long=given.long)
                    )
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
    print(f"{'video':>6} {'seconds':>9} {'frames':>7} {'mode':>6} {'median ms':>10} {'least':>8} {'most':>8}")
    for (name, mode), times in found.items():
        about = timelines[name]
        row = f"{name:>6} {about.duration:>9.1f} {about.frame_count:>7} {mode:>6}"
        print(f"{row} {statistics.median(times):>10.1f} {min(times):>8.1f} {max(times):>8.1f}")
    median = {key: statistics.median(times) for key, times in found.items()}
    for mode in ("cold", "ahead"):
        print(f"long / short, {mode}: {median['long', mode] / median['short', mode]:.3f}")
    print(f"ahead / cold, short: {median['short', 'ahead'] / median['short', 'cold']:.3f}")


def first_token(
    engine: Engine, timeline: Timeline, *, ahead: bool, audio: bool = True, long: Long | None = None
) -> float:
    """Milliseconds from the question to its first token, nothing of its prompt in the KV cache unless read ahead."""
    sampling = replace(engine.spec.llm.sampling, temperature=0.0, max_tokens=2)
    list(engine.chat(timeline, audio=audio).ask("Something else.", long="frames", sampling=sampling))
    engine.backbone._cached.clear()
    chat = engine.chat(timeline, audio=audio)
    if ahead:
        chat.prepare(long=long)
        engine.backbone.wait_ahead()
    *_, last = chat.ask(QUESTION, long=long, sampling=sampling)
    assert last.usage is not None
    return last.usage.first_token_ms


def repeated(clip: Path, path: Path, seconds: float) -> Path:
    """The packets of a clip over and over, until so many seconds are full."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        timed = ((stream.duration, stream.time_base) for stream in source.streams)
        lengths = [float(duration * base) for duration, base in timed if duration and base]
        last: dict[int, int] = {}
        rounds, length = int(-(-seconds // max(lengths))), max(lengths)
        for number in range(rounds):
            source.seek(0)
            for packet in source.demux():
                if packet.pts is None or packet.dts is None:
                    continue
                shift = round(number * length / float(packet.time_base))
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                if packet.dts <= last.get(packet.stream.index, packet.dts - 1):
                    continue  # what an encoder puts before the first sound, again
                last[packet.stream.index] = packet.dts
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    return path


if __name__ == "__main__":
    main()
