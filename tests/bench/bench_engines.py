"""What it takes to build the TensorRT engines of a model: time, peak memory, size. No GPU is needed, or used.

    python tests/bench/bench_engines.py --weights FOLDER [--entry video-llama-2-7b-chat] [--graphs frames,video]
        [--precisions fp16,w8a16] [--targets 8.6,8.9] [--work FOLDER]

Each graph is written from the weights first, then its engine is built beside it; both are left in --work.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import get_args

from vllama.export.checkpoint import Reader
from vllama.export.graphs import GraphName, empty_graph
from vllama.export.meter import PartCost, Report, metered
from vllama.export.staging import record_files
from vllama.export.to_onnx import to_onnx
from vllama.export.to_tensorrt import EngineOptions, add_engines, open_builder
from vllama.runtime.benchmark.limits import processor_name
from vllama.runtime.bundle import Bundle
from vllama.runtime.manifest import SCHEMA, FileRecord, Manifest
from vllama.runtime.precision import Precision
from vllama.runtime.registry import find_spec, spec_to_dict
from vllama.runtime.spec import ModelSpec


def main() -> None:
    """Write, build, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, required=True, help="the folder with the published files")
    parser.add_argument("--entry", default="video-llama-2-7b-chat")
    parser.add_argument("--graphs", default=",".join(get_args(GraphName)))
    parser.add_argument("--precisions", default="fp16")
    parser.add_argument("--targets", default="", help="compute capabilities; default: all from 8.0 on")
    parser.add_argument("--work", type=Path, help="a folder for what is made, which is kept")
    given = parser.parse_args()
    spec = find_spec(given.entry)
    builder = open_builder(EngineOptions(targets=tuple(filter(None, given.targets.split(",")))))
    library = f"{builder.library.name} {builder.library.version} for {' '.join(builder.targets)}"
    print(f"{processor_name()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, {library}")
    print(f"{'part':>20} {'precision':>9} {'GB':>7} {'seconds':>8} {'CPU s':>7} {'peak GB':>8}")
    with tempfile.TemporaryDirectory() as temporary:
        for precision in given.precisions.split(","):
            folder = (given.work or Path(temporary)) / precision
            folder.mkdir(parents=True, exist_ok=True)
            show = partial(row, precision)
            for graph in given.graphs.split(","):
                bundle = one_graph(graph, spec, given.weights, folder, precision, show)
                add_engines(bundle, builder, lambda part, done, total: None, show)


def one_graph(
    graph: GraphName, spec: ModelSpec, weights: Path, folder: Path, precision: Precision, show: Report
) -> Bundle:
    """A bundle of this graph alone."""
    path = folder / f"{graph}.onnx"

    def write() -> dict[str, FileRecord]:
        reader = Reader(graph, spec, weights, lambda size: None)
        to_onnx(empty_graph(graph, spec), reader, path, precision)
        reader.close()
        return record_files(folder, (path.name, f"{path.name}.data"))

    files = metered(path.name, show, write, lambda made: sum(record.bytes for record in made.values()))
    manifest = Manifest(SCHEMA, spec.name, "", spec_to_dict(spec), "", {}, files, {graph: precision}, {}, ())
    return Bundle(folder, manifest, spec)


def row(precision: str, cost: PartCost) -> None:
    """One line."""
    peak = "" if cost.peak_bytes is None else f"{cost.peak_bytes / 1e9:.2f}"
    took = f"{cost.seconds:>8.1f} {cost.cpu_seconds:>7.1f} {peak:>8}"
    print(f"{cost.part:>20} {precision:>9} {cost.bytes / 1e9:>7.3f} {took}", flush=True)


if __name__ == "__main__":
    main()
