"""Which way to look at a long video serves which kind of question: the miniature on long clips of its world.

python tests/bench/bench_long.py [--seconds 60 300] [--clips 12] [--model BUNDLE] [--threads 1] [--modes MODE...]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median

from vllama.export.mini.held_out import write_long_set
from vllama.runtime import Engine
from vllama.runtime.question_set import read_questions
from vllama.runtime.types import Long

MODES = ("frames", "memory", "segments", "map")


def main() -> None:
    """Render, index at one frame a second, ask every question in every mode, print a table for each length."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0, 300.0])
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    given = parser.parse_args()
    with Engine.open(given.model, threads=given.threads) as engine:
        for seconds in given.seconds:
            right, first = asked(engine, given.clips, seconds, given.modes)
            show(seconds, given.modes, right, first)
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")


def asked(
    engine: Engine, clips: int, seconds: float, modes: list[Long]
) -> tuple[dict[tuple[str, str], list[bool]], dict[str, list[float]]]:
    """By kind and mode whether each answer is right; by mode the milliseconds to the first token."""
    sampling = replace(engine.spec.llm.sampling, temperature=0.0)
    right, first = defaultdict[tuple[str, str], list[bool]](list), defaultdict[str, list[float]](list)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VLLAMA_CACHE"] = folder
        for each in read_questions(write_long_set(Path(folder), clips, seconds)):
            timeline = engine.index(each.video, fps=1.0)
            for mode in modes:
                *_, last = engine.chat(timeline).ask(each.question, long=mode, sampling=sampling, seed=0)
                assert last.usage is not None
                right[each.kind, mode].append(each.is_right(last.usage.answer))
                right["all", mode].append(right[each.kind, mode][-1])
                first[mode].append(last.usage.first_token_ms)
    return right, first


def show(
    seconds: float, modes: list[str], right: dict[tuple[str, str], list[bool]], first: dict[str, list[float]]
) -> None:
    """A row for each kind, and one for the time to the first token."""
    print(f"\n{seconds:g} s | questions | " + " | ".join(modes))
    for kind in [*sorted({kind for kind, _ in right} - {"all"}), "all"]:
        shares = [100 * sum(right[kind, mode]) / len(right[kind, mode]) for mode in modes]
        print(f"{kind} | {len(right[kind, modes[0]])} | " + " | ".join(f"{share:.0f} %" for share in shares))
    print("first token, ms | | " + " | ".join(f"{median(first[mode]):.0f}" for mode in modes), flush=True)


if __name__ == "__main__":
    main()
