"""Right answers about clips that a camera and a microphone were shown, against those about the files.

    python tests/bench/bench_live_accuracy.py [--clips 12] [--questions 5] [--model BUNDLE] [--played FOLDER]

Rendered clips that training never saw are served as a network camera and played into a sound server, picture and sound
in time, one after the other; what was asked about each is then asked about the seconds in which it was shown. --played
takes the questions of a folder that `vllama.export.mini.held_out` wrote, instead of rendering.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from vllama.export.mini.held_out import write_set
from vllama.runtime import Chat, Engine, Span
from vllama.runtime.media import probe
from vllama.runtime.question_set import KnownAnswer, read_questions
from vllama.runtime.sound import count_samples, read_samples

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.live.mjpeg import MjpegServer
from tests.live.pulse import RATE, Pulse

_LATENCY = 0.05  # seconds from the showing of a picture to its capture
_AHEAD = 0.8  # seconds between saying so and showing it
_AFTER = 2.5  # seconds until the last picture and sound are encoded


def main() -> None:
    """Show, ask, print how many are right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--questions", type=int, default=5, help="of each clip")
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--played", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Engine.open(given.model) as engine:
        os.environ["VLLAMA_CACHE"] = folder
        path = given.played / "questions.jsonl" if given.played else write_set(Path(folder), given.clips)
        asked: dict[Path, list[KnownAnswer]] = defaultdict(list)
        for each in read_questions(path):
            if len(asked) < given.clips or each.video in asked:
                asked[each.video].append(each)
        asked = {clip: questions[: given.questions] for clip, questions in asked.items()}
        of_files = {
            clip: answers(engine.chat(engine.index(clip, fps=0.0)), questions) for clip, questions in asked.items()
        }
        shown = of_live(engine, asked, Path(folder) / "pulse")
    report(asked, of_files, shown)


def of_live(engine: Engine, asked: dict[Path, list[KnownAnswer]], folder: Path) -> dict[Path, list[str]]:
    """Each clip shown once, and asked about."""
    found = {}
    with (
        MjpegServer(next(iter(asked)), loop=False) as server,
        Pulse(folder) as pulse,
        engine.watch(camera=server.url, microphone="pulse", note=print) as live,
    ):
        time.sleep(2.0)
        pulse.speaker()
        for clip, questions in asked.items():
            info = probe(clip)
            sound = read_samples(info, [(0, count_samples(info, RATE))], RATE) if info.has_audio else []
            begun = server.show(clip, loop=False, ahead=_AHEAD)
            for samples in sound:
                pulse.speaker().play(samples.data[0], at=begun + info.sound_start)
            begin = live.clock.now() + begun - time.monotonic() + _LATENCY
            time.sleep(max(0.0, begun + info.duration + _AFTER - time.monotonic()))
            span = Span(begin, begin + info.duration)
            found[clip] = answers(engine.chat(live.timeline), questions, span)
        status = live.status
    print(f"{status.encoded} pictures encoded, {status.still} still, {status.clips} stretches of sound")
    print(f"{status.seen_rate:.1f} pictures a second, {status.clips_left_out} stretches left out")
    return found


def answers(chat: Chat, questions: list[KnownAnswer], span: Span | None = None) -> list[str]:
    """Each in a conversation of its own."""
    said = []
    for each in questions:
        chat.clear()
        *_, last = chat.ask(each.question, span, seed=0)
        assert last.usage is not None
        said.append(last.usage.answer)
    return said


def report(asked: dict[Path, list[KnownAnswer]], of_files: dict[Path, list[str]], shown: dict[Path, list[str]]) -> None:
    """How many are right, and which answers differ."""
    right: dict[str, int] = defaultdict(int)
    total = differ = 0
    for clip, questions in asked.items():
        for each, of_file, live in zip(questions, of_files[clip], shown[clip], strict=True):
            total += 1
            right["file"] += each.is_right(of_file)
            right["live"] += each.is_right(live)
            if of_file != live:
                differ += 1
                print(f"{clip.name} {each.question!r}: file {of_file!r}, live {live!r} (right: {each.answer!r})")
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}: {total} questions about {len(asked)} clips")
    for name in ("file", "live"):
        print(f"{name}: {right[name]} right, {100 * right[name] / total:.1f} %")
    print(f"live - file: {100 * (right['live'] - right['file']) / total:+.1f} points; {differ} answers differ")


if __name__ == "__main__":
    main()
