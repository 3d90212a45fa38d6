"""What long-video memory costs: per frame while it is kept, per question, and in the video Q-former.

    python tests/bench/bench_memory.py [--model BUNDLE] [--frames 3600] [--runs 5] [--threads 1]

Features are random, of the shape of the bundle's model (full size without one), float16 as a timeline stores them.
Every figure is the median of --runs: by the clock, with the fastest and the slowest beside it, and in core time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from vllama.runtime.backend import open_backend
from vllama.runtime.bundle import find_bundle, open_bundle
from vllama.runtime.memory import Memory, extended_positions, position_count
from vllama.runtime.types import Float32

_FULL_SIZE = (32, 768)  # query_tokens, hidden_size
_TABLE_ROWS = 32
_DISTINCT = 256  # frames that are made; a longer film repeats them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a bundle, by name or folder: times its video graph at 8 and at all frames")
    parser.add_argument("--frames", type=int, default=3600, help="frames of the film")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the video graph")
    options = parser.parse_args()
    bundle = open_bundle(find_bundle(options.model)) if options.model else None
    shape, table = _FULL_SIZE, np.zeros((_TABLE_ROWS, _FULL_SIZE[1]), np.float32)
    if bundle:
        qformer = bundle.spec.video.qformer
        shape, table = (qformer.query_tokens, qformer.hidden_size), bundle.positions()["video"]
    print(f"features {shape}, {options.frames} frames, {os.cpu_count()} cores, median of {options.runs} runs")
    memory_costs(shape, table, options.frames, options.runs)
    if bundle:
        video_graph_costs(bundle.path("video.onnx"), shape, table, options.runs, options.threads)


def memory_costs(shape: tuple[int, int], table: Float32, count: int, runs: int) -> None:
    """One row per step of memory."""
    limit = position_count(len(table))
    distinct = np.random.default_rng(0).standard_normal((_DISTINCT, *shape)).astype(np.float16)
    film = [distinct[i % _DISTINCT] for i in range(count)]
    times = [float(i) for i in range(count)]
    memory = Memory(limit)

    def keep(fragment: int) -> Callable[[], None]:
        def run() -> None:
            nonlocal memory
            memory = Memory(limit, fragment=fragment)
            for moment, features in zip(times, film, strict=True):
                memory.add(moment, features)

        return run

    _row("keep, fragments from 2 on", keep(2), runs, count, "frame")
    _row("keep, fragments from 8 on", keep(8), runs, count, "frame")
    _row(f"question, whole ({len(memory.frames().times)} frames)", memory.frames, runs, 1, "question")
    _row(f"question, now ({len(memory.frames_now().times)} frames)", memory.frames_now, runs, 1, "question")
    _row(f"positions ({limit})", lambda: extended_positions(table, limit), runs, 1, "question")


def video_graph_costs(path: Path, shape: tuple[int, int], table: Float32, runs: int, threads: int) -> None:
    """The video Q-former over the frames of the original and over a full memory."""
    backend = open_backend(path, threads=threads)
    rng = np.random.default_rng(0)
    for count in (8, len(table), position_count(len(table))):
        inputs = {
            "frame_features": rng.standard_normal((1, count, *shape)).astype(np.float32),
            "positions": extended_positions(table, count),
        }
        backend.run(inputs)  # the first run of a shape plans its memory
        _row(f"video graph, {count} frames, {threads} threads", partial(backend.run, inputs), runs, 1, "question")
    backend.close()


def _row(what: str, run: Callable[[], object], runs: int, parts: int, unit: str) -> None:
    wall, cores = [], []
    for _ in range(runs):
        started, busy = time.perf_counter(), time.process_time()
        run()
        cores.append((time.process_time() - busy) * 1000.0 / parts)
        wall.append((time.perf_counter() - started) * 1000.0 / parts)
    between = f"({min(wall):.3f} to {max(wall):.3f})"
    core = statistics.median(cores)
    print(f"{what:<36} {statistics.median(wall):10.3f} ms/{unit:<9} {between:<24} {core:10.3f} core-ms")


if __name__ == "__main__":
    main()
