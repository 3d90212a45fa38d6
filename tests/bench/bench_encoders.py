"""The encoders of a bundle beside plain torch and a plain onnxruntime session on the same weights, one input at a time.

    python tests/bench/bench_encoders.py --weights FOLDER --bundle BUNDLE [--graphs frames,clips] [--rounds 7]

A part of bench_compare.py, which can also be run by itself. All run in turns, A B A B, in one process; each time is
that of one frame (or one clip of sound, or one question's frames). Ratios are taken within a round, so that what else
the machine does hits both. The last column is the relative L2 distance from torch in float32. Full size needs about
14 GB of memory and 4 GB in --work, for onnxruntime in float32.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from turns import Times, clocked, machine, print_turns

from vllama.export.checkpoint import build_graph, read_part
from vllama.export.graphs import Graph, GraphName, empty_graph
from vllama.export.to_onnx import examples, to_onnx
from vllama.runtime.backend import open_backend
from vllama.runtime.bundle import find_bundle, open_bundle
from vllama.runtime.spec import ModelSpec

Inputs = dict[str, np.ndarray]
Run = Callable[[Inputs], np.ndarray]
_SIZES = {"frames": 1, "clips": 1, "video": 8, "audio": 8}  # of the free axis: what the runtime gives at a time


def main() -> None:
    """Compare the graphs that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser, needed=True)
    parser.add_argument("--bundle", required=True, help="a bundle of them: its folder or its name")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    print(machine(given.threads, "torch", "onnxruntime"))
    compare_encoders(given)


def add_options(parser: argparse.ArgumentParser, *, needed: bool) -> None:
    """What `compare_encoders` reads beside `bundle` and `threads`."""
    parser.add_argument("--weights", type=Path, required=needed, help="the folder with the published files")
    parser.add_argument("--graphs", default="frames,clips", help=f"of {','.join(_SIZES)}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, help="a folder for float32 graphs, kept for the next time")
    parser.add_argument("--without", default="", help="leave out, for example: torch bf16,onnxruntime fp32")


def compare_encoders(given: argparse.Namespace) -> None:
    """Open everything, run in turns, print a table per graph."""
    bundle = open_bundle(find_bundle(given.bundle))
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.graphs.split(","):
            work = (given.work or Path(temporary)) / name
            work.mkdir(parents=True, exist_ok=True)
            runs = dict(contenders(name, bundle.spec, given.weights, bundle.path(f"{name}.onnx"), work, given.threads))
            for left_out in given.without.split(","):
                runs.pop(left_out, None)
            inputs = [examples(empty_graph(name, bundle.spec), _SIZES[name], seed) for seed in range(2)]
            errors = compared(runs, inputs)
            notes = {each: f"{max(found):.4f}" for each, found in errors.items()}
            print_turns(f"{name} (last column: error)", measured(runs, inputs, given.rounds), notes)
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


def compared(runs: dict[str, Run], inputs: list[Inputs]) -> dict[str, list[float]]:
    """The error of each for each input, relative to the first; it warms them up."""
    errors: dict[str, list[float]] = {name: [] for name in runs}
    for each in inputs:
        wanted = None
        for name, run in runs.items():
            found = run(each).astype(np.float64)
            wanted = found if wanted is None else wanted
            errors[name].append(float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)))
    return errors


def measured(runs: dict[str, Run], inputs: list[Inputs], rounds: int) -> Times:
    """In turns."""
    times: Times = {name: [] for name in runs}
    for number in range(rounds):
        given = inputs[number % len(inputs)]
        for name, run in runs.items():
            times[name].append(clocked(partial(run, given)))
    return times


def _torch(graph: Graph, dtype: torch.dtype) -> Run:
    def run(inputs: Inputs) -> np.ndarray:
        with torch.inference_mode():
            output: torch.Tensor = graph(*(torch.from_numpy(array).to(dtype) for array in inputs.values()))
            return output.float().numpy()

    return run


if __name__ == "__main__":
    main()
