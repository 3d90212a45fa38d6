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
from vllama.runtime.memory import Memory, extended_positions
from vllama.runtime.registry import find_spec
from vllama.runtime.remembered import memory_limit, start_memory
from vllama.runtime.spec import ModelSpec
from vllama.runtime.types import Float32

_FULL_SIZE = "video-llama-2-7b-chat"
_DISTINCT = 256  # frames that are made; a longer film repeats them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", help="a bundle, by name or folder: times its video graph at 8 and at a memory's frames"
    )
    parser.add_argument("--frames", type=int, default=3600, help="frames of the film")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the video graph")
    options = parser.parse_args()
    bundle = open_bundle(find_bundle(options.model)) if options.model else None
    spec = bundle.spec if bundle else find_spec(_FULL_SIZE)
    qformer, rows = spec.video.qformer, spec.video.video_qformer.max_frames
    shape = (qformer.query_tokens, qformer.hidden_size)
    table = bundle.positions()["video"] if bundle else np.zeros((rows, qformer.hidden_size), np.float32)
    print(f"features {shape}, {options.frames} frames, {os.cpu_count()} cores, median of {options.runs} runs")
    memory_costs(spec, shape, table, options.frames, options.runs)
    if bundle:
        video_graph_costs(bundle.path("video.onnx"), spec, shape, table, options.runs, options.threads)


def memory_costs(spec: ModelSpec, shape: tuple[int, int], table: Float32, count: int, runs: int) -> None:
    """One row per step of memory."""
    limit = memory_limit(spec)
    distinct = np.random.default_rng(0).standard_normal((_DISTINCT, *shape)).astype(np.float16)

    def kept() -> Memory:
        memory = start_memory(spec, count)
        assert memory is not None, f"of {count} frames there is no memory"
        for number in range(count):
            memory.add(float(number), distinct[number % _DISTINCT])
        return memory

    memory = kept()
    _row("keep", kept, runs, count, "frame")
    _row(f"question, whole ({len(memory.frames().times)} frames)", memory.frames, runs, 1, "question")
    _row(f"question, now ({len(memory.frames_now().times)} frames)", memory.frames_now, runs, 1, "question")
    _row(f"positions ({limit})", lambda: extended_positions(table, limit), runs, 1, "question")


def video_graph_costs(
    path: Path, spec: ModelSpec, shape: tuple[int, int], table: Float32, runs: int, threads: int
) -> None:
    """The video Q-former over the frames of the original and over a full memory."""
    backend = open_backend(path, threads=threads)
    rng = np.random.default_rng(0)
    for count in (spec.video.num_frames, memory_limit(spec)):
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
