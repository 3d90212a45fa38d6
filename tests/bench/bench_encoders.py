"""The encoders of a bundle beside plain torch and a plain onnxruntime session on the same weights, one input at a time.

    python tests/bench/bench_encoders.py --weights FOLDER --bundle BUNDLE [--graphs frames,clips] [--rounds 7]

All run in turns, A B A B, in one process; each time is that of one frame (or one clip of sound, or one question's
frames). Ratios are taken within a round, so that what else the machine does hits both. "error" is the relative L2
distance from torch in float32. Full size needs about 14 GB of memory and 4 GB in --work, for onnxruntime in float32.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from vllama.export.checkpoint import build_graph, read_part
from vllama.export.graphs import Graph, GraphName, empty_graph
from vllama.export.to_onnx import examples, to_onnx
from vllama.runtime.backend import open_backend
from vllama.runtime.bundle import find_bundle, open_bundle
from vllama.runtime.spec import ModelSpec

Inputs = dict[str, np.ndarray]
Run = Callable[[Inputs], np.ndarray]
_SIZES = {"frames": 1, "clips": 1, "video": 8, "audio": 8}  # of the free axis: what the runtime gives at a time
_REST = 0.1  # seconds between two runs, so that threads that wait by spinning have stopped


def main() -> None:
    """Open everything, run in turns, print a table per graph."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, required=True, help="the folder with the published files")
    parser.add_argument("--bundle", required=True, help="a bundle of them: its folder or its name")
    parser.add_argument("--graphs", default="frames,clips", help=f"of {','.join(_SIZES)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, help="a folder for float32 graphs, kept for the next time")
    parser.add_argument("--without", default="", help="leave out, for example: torch bf16,onnxruntime fp32")
    given = parser.parse_args()
    bundle = open_bundle(find_bundle(given.bundle))
    torch.set_num_threads(given.threads)
    print(
        f"{_processor()}, {given.threads} threads, {time.strftime('%Y-%m-%d')}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "onnxruntime"))
    )
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.graphs.split(","):
            work = (given.work or Path(temporary)) / name
            work.mkdir(parents=True, exist_ok=True)
            runs = dict(contenders(name, bundle.spec, given.weights, bundle.path(f"{name}.onnx"), work, given.threads))
            for left_out in given.without.split(","):
                runs.pop(left_out, None)
            inputs = [examples(empty_graph(name, bundle.spec), _SIZES[name], seed) for seed in range(2)]
            print_table(name, *measured(runs, inputs, given.rounds))
            del runs
            gc.collect()


def contenders(
    name: GraphName, spec: ModelSpec, weights: Path, ours: Path, work: Path, threads: int
) -> Iterator[tuple[str, Run]]:
    """Each way to run a graph, ready to be called; the first is the one that errors are measured by."""
    part = read_part(name, spec, weights)
    yield "torch fp32", _torch(build_graph(part, spec), torch.float32)
    yield "torch bf16", _torch(build_graph(part, spec).to(torch.bfloat16), torch.bfloat16)
    path = work / f"{name}.onnx"
    if not path.is_file():
        to_onnx(empty_graph(name, spec), part.state.__getitem__, path, "fp32")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    plain = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    yield "onnxruntime fp32", lambda inputs: plain.run(None, inputs)[0]
    backend = open_backend(ours, threads=threads)
    yield "vllama", lambda inputs: next(iter(backend.run(inputs).values()))


def measured(
    runs: dict[str, Run], inputs: list[Inputs], rounds: int
) -> tuple[dict[str, list[tuple[float, float]]], dict[str, list[float]]]:
    """By name: (wall, processor) seconds of each round, and the error for each input."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    errors: dict[str, list[float]] = {name: [] for name in runs}
    for each in inputs:  # also warms up
        wanted = None
        for name, run in runs.items():
            found = run(each).astype(np.float64)
            wanted = found if wanted is None else wanted
            errors[name].append(float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)))
    for number in range(rounds):
        for name, run in runs.items():
            time.sleep(_REST)
            wall, processor = time.perf_counter(), time.process_time()
            run(inputs[number % len(inputs)])
            times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return times, errors


def print_table(name: str, times: dict[str, list[tuple[float, float]]], errors: dict[str, list[float]]) -> None:
    """Medians, spread, and how many times as long as vllama each took."""
    print(f"\n{name}, {len(next(iter(times.values())))} rounds")
    print(f"{'':<17} {'wall ms':>8} {'least':>8} {'most':>8} {'CPU ms':>8} {'x wall':>17} {'x CPU':>17} {'error':>8}")
    for each, rounds in times.items():
        walls, processors = ([1000 * one[kind] for one in rounds] for kind in (0, 1))
        ratios = "".join(f" {_ratio(rounds, times['vllama'], kind):>17}" for kind in (0, 1))
        columns = (statistics.median(walls), min(walls), max(walls), statistics.median(processors))
        row = " ".join(f"{column:>8.1f}" for column in columns)
        print(f"{each:<17} {row}{ratios} {max(errors[each]):>8.4f}", flush=True)


def _ratio(rounds: list[tuple[float, float]], ours: list[tuple[float, float]], kind: int) -> str:
    ratios = [one[kind] / other[kind] for one, other in zip(rounds, ours, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def _torch(graph: Graph, dtype: torch.dtype) -> Run:
    def run(inputs: Inputs) -> np.ndarray:
        with torch.inference_mode():
            return graph(*(torch.from_numpy(array).to(dtype) for array in inputs.values())).float().numpy()

    return run


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
