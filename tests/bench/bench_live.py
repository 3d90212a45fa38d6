"""First token after the question, live while it is seen and heard, against the same question about an indexed file.

    python tests/bench/bench_live.py --clip CLIP [--model BUNDLE] [--rounds 15] [--fps 4] [--hours 0]

The clip is served as a network camera and played into a sound server, both on this machine. In turns, A B A B, in one
process: the file with the sources paused, its prompt's opening read ahead, as `vllama chat --video` does while a
question is typed; then the live window, read ahead as it moves, while encoding goes on. --hours fills the live timeline
with so many hours of earlier features first.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np

from vllama.runtime import Engine, Live, LiveChat, Timeline, Usage
from vllama.runtime.live.read_ahead import ReadAhead
from vllama.runtime.media import probe
from vllama.runtime.sound import count_samples, read_samples
from vllama.runtime.timeline import ClipFeature, FrameFeature

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.live.mjpeg import MjpegServer
from tests.live.pulse import RATE, Pulse

QUESTION = "What does the person in the video do at the end?"


def main() -> None:
    """Follow, ask in turns, print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="miniature", help="a bundle: its folder or its name")
    parser.add_argument("--clip", type=Path, required=True, help="a short video with sound")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--fps", type=float, default=4.0)
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=None)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        MjpegServer(given.clip) as server,
        Pulse(Path(folder) / "pulse") as pulse,
        Engine.open(given.model, threads=given.threads) as engine,
    ):
        os.environ["VLLAMA_CACHE"] = folder
        pulse.play(sound_of(given.clip, Path(folder) / "sound.wav", 3600.0), wait=False)
        timeline = engine.index(given.clip, fps=1.0)
        with engine.watch(camera=server.url, microphone="pulse", fps=given.fps, note=print) as live:
            fill(live.timeline, timeline, given.hours)
            time.sleep(12.0)
            found: dict[str, list[Usage]] = {"file": [], "live": []}
            for _ in range(given.rounds):
                found["file"].append(of_file(engine, live, timeline))
                found["live"].append(of_live(engine, live))
            status = live.status
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")
    print(f"{status.held:.0f} s: {status.encoded} pictures encoded, {status.still} still, {status.clips} sounds")
    print(f"{'':>6} {'median ms':>10} {'least':>8} {'most':>8} {'tokens read':>12}")
    for name, usages in found.items():
        times = [usage.first_token_ms for usage in usages]
        read = statistics.median(usage.prefilled_tokens for usage in usages)
        print(f"{name:>6} {statistics.median(times):>10.1f} {min(times):>8.1f} {max(times):>8.1f} {read:>12.0f}")
    live_ms, file_ms = (statistics.median(u.first_token_ms for u in found[name]) for name in ("live", "file"))
    print(f"live / file: {live_ms / file_ms:.3f}")


def of_file(engine: Engine, live: Live, timeline: Timeline) -> Usage:
    """About the indexed file, its opening read ahead."""
    live.pause()
    chat = engine.chat(timeline)
    chat.prepare()
    engine.backbone.wait_ahead()
    time.sleep(0.5)
    *_, last = chat.ask(QUESTION, sampling=replace(engine.spec.llm.sampling, temperature=0.0, max_tokens=8))
    assert last.usage is not None
    return last.usage


def of_live(engine: Engine, live: Live) -> Usage:
    """About the newest ten seconds."""
    live.resume()
    chat = engine.chat(live.timeline)
    assert isinstance(chat, LiveChat)
    encoded = live.status.encoded
    with ReadAhead(chat) as ahead:
        time.sleep(4.0)
        while chat.reads_ahead or live.status.encoded == encoded:
            time.sleep(0.05)
        time.sleep(np.random.default_rng().uniform(0.0, 1.0))  # at any moment between two pictures
        with ahead.asking():
            *_, last = chat.ask(QUESTION, sampling=replace(engine.spec.llm.sampling, temperature=0.0, max_tokens=8))
    assert last.usage is not None
    return last.usage


def fill(live: Timeline, timeline: Timeline, hours: float) -> None:
    """So many hours of earlier pictures and sound, before what was seen; times below zero are the past."""
    frames, clips = timeline.frames_in(), timeline.choose_clips(8, 2.0)
    for number in range(round(-4 * 3600 * hours), 0):
        feature = frames[number % len(frames)].features.copy()
        live.add_frame(FrameFeature(250 * number, number / 4, feature))
        if number % 4 == 0 and clips:
            live.add_clip(ClipFeature(number / 4, number / 4 + 2.0, clips[0].features.copy()))


def sound_of(clip: Path, path: Path, seconds: float) -> Path:
    """The sound of a clip as WAV, again and again."""
    info = probe(clip)
    (sound,) = read_samples(info, [(0, count_samples(info, RATE))], RATE)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        data = (sound.data[0] * 32767).astype(np.int16).tobytes()
        for _ in range(int(seconds / (sound.data.shape[1] / RATE)) + 1):
            file.writeframes(data)
    return path


if __name__ == "__main__":
    main()
