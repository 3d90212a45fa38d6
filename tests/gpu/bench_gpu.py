"""The vision graph at full size on a GPU, random weights: TensorRT, ONNX Runtime, torch eager and compiled, in turns.

    python tests/gpu/bench_gpu.py [--entry video-llama-2-7b-chat] [--batches 1,8,32] [--rounds 7] [--model BUNDLE]

A time is that of one batch from the host's memory to the host's memory. Beside it stand the card's own limits, measured
in the same run: fp16 products of large matrices, and copies of its memory. With a bundle also the first token and the
tokens per second of questions about a clip that ships with vllama. Prints Markdown. All ways are open at once: one for
which the card has not the memory is left out, with the reason; --without leaves out others. Not yet seen on a GPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from vllama.export.graphs import empty_graph
from vllama.export.precision import Precision
from vllama.export.staging import record_files
from vllama.export.to_onnx import to_onnx
from vllama.export.to_tensorrt import EngineOptions, add_engines, open_builder
from vllama.runtime import Engine
from vllama.runtime.backend import open_graph
from vllama.runtime.backend_onnx import check_cuda
from vllama.runtime.bundle import SCHEMA, Bundle, Manifest
from vllama.runtime.errors import BackendError, FileError, SpecError
from vllama.runtime.flops import frame_flops
from vllama.runtime.gpus import Gpu, find_gpus
from vllama.runtime.placement import Placement, Runner
from vllama.runtime.spec import ModelSpec, find_spec, spec_to_dict

_CLIP = Path(__file__).parents[2] / "cli" / "demo_clips" / "circle.mp4"
_QUESTIONS = ("What happens in the video?", "What do you hear?", "What happens last?")
_SIDE = 8192  # of a square matrix
_COPY_BYTES = 1 << 30

EAGER = "torch eager fp16"

Run = Callable[[np.ndarray], np.ndarray]
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Way:
    """One way to run the graph: opened by `open`, given back by what that yields ending."""

    name: str
    open: Callable[[], AbstractContextManager[Run]]


def main() -> None:
    """Measure the card, then every way at every batch, then a bundle's answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--entry", default="video-llama-2-7b-chat", help="whose dimensions, of models.toml")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--without", default="", help="leave out, for example: torch.compile,TensorRT w8a16")
    parser.add_argument("--model", help="a bundle for GPUs: its folder or its name")
    given = parser.parse_args()
    spec, gpu = find_spec(given.entry), find_gpus()[0]
    rate, bandwidth = matrix_rate(), copy_rate()
    print(f"{gpu.name}, compute capability {gpu.capability}, {gpu.bytes / 1e9:.1f} GB, driver {driver()}")
    print(f"\nMeasured limits: {rate / 1e12:.0f} TFLOP/s of fp16 products, {bandwidth / 1e9:.0f} GB/s of memory.\n")
    with tempfile.TemporaryDirectory() as folder:
        ways = [way for way in all_ways(spec, gpu, Path(folder)) if way.name not in given.without.split(",")]
        measure(ways, [int(size) for size in given.batches.split(",")], spec, given.rounds, rate)
    if given.model:
        answers(given.model)


def all_ways(spec: ModelSpec, gpu: Gpu, folder: Path) -> list[Way]:
    """Those that this machine has; what it lacks is said."""
    state = random_weights(spec)
    ways = [
        Way(EAGER, lambda: in_torch(spec, state)),
        Way("torch.compile fp16", lambda: in_torch(spec, state, compiled=True)),
    ]
    wanted: list[tuple[Precision, Runner, str]] = [
        ("fp16", "tensorrt", "TensorRT fp16"),
        ("w8a16", "tensorrt", "TensorRT w8a16"),
        ("fp16", "onnx", "ONNX Runtime fp16"),
    ]
    for precision, runner, name in wanted:
        try:
            bundle = one_graph(spec, state, precision, folder / precision)
            if runner == "onnx":
                check_cuda()
            else:
                builder = open_builder(EngineOptions(targets=(gpu.capability,)))
                bundle = add_engines(bundle, builder, lambda part, done, total: None, lambda cost: None)
            ways.append(Way(name, partial(in_backend, bundle, Placement(runner, gpu))))
        except (BackendError, FileError, SpecError) as error:
            print(f"- {name} is left out: {error}")
    return ways


def random_weights(spec: ModelSpec) -> Weights:
    """Of a plausible size, the same each time."""
    torch.manual_seed(0)

    def drawn(key: str, tensor: torch.Tensor) -> torch.Tensor:
        is_norm = tensor.ndim == 1 and "norm" in key.lower() and key.endswith("weight")
        return torch.randn(tensor.shape) * (0.02 if tensor.ndim > 1 else 0.1) + float(is_norm)

    return {key: drawn(key, tensor) for key, tensor in empty_graph("frames", spec).state_dict().items()}


def one_graph(spec: ModelSpec, state: Weights, precision: Precision, folder: Path) -> Bundle:
    """A bundle of the vision graph alone, written once."""
    if not folder.exists():
        folder.mkdir()
        to_onnx(empty_graph("frames", spec), state.__getitem__, folder / "frames.onnx", precision)
    files = record_files(folder, ("frames.onnx", "frames.onnx.data"))
    manifest = Manifest(SCHEMA, spec.name, "", spec_to_dict(spec), "", {}, files, {"frames": precision}, {}, ())
    return Bundle(folder, manifest, spec)


@contextmanager
def in_torch(spec: ModelSpec, state: Weights, *, compiled: bool = False) -> Iterator[Run]:
    graph = empty_graph("frames", spec).to_empty(device="cuda").half()
    graph.load_state_dict(state)
    call = torch.compile(graph) if compiled else graph

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            features: np.ndarray = call(torch.from_numpy(pixels).cuda().half()).float().cpu().numpy()
        return features

    yield run
    torch.compiler.reset()


@contextmanager
def in_backend(bundle: Bundle, placement: Placement) -> Iterator[Run]:
    backend = open_graph(bundle, "frames", placement)
    try:
        yield lambda pixels: backend.run({"pixel_values": pixels})["frame_features"]
    finally:
        backend.close()


def measure(ways: Sequence[Way], sizes: Sequence[int], spec: ModelSpec, rounds: int, rate: float) -> None:
    """A row for each way and batch; all ways are open at once and take turns."""
    size, flops = spec.video.image_size, frame_flops(spec.video)
    seconds: dict[tuple[str, int], list[float]] = {}
    memory: dict[str, float] = {}
    with ExitStack() as stack:
        runs = {}
        for way in ways:
            before = torch.cuda.mem_get_info()[0]
            with ExitStack() as own:
                try:
                    run = own.enter_context(way.open())
                    for count in sizes:  # compiles, and takes the memory of the largest
                        run(np.zeros((count, 3, size, size), np.float32))
                except (BackendError, FileError, RuntimeError) as error:  # the last: torch, of memory too
                    print(f"- {way.name} is left out: {' '.join(str(error).split())[:200]}")
                    continue
                stack.enter_context(own.pop_all())
            runs[way.name] = run
            memory[way.name] = (before - torch.cuda.mem_get_info()[0]) / 1e9
        for _ in range(rounds):
            for count in sizes:
                pixels = np.random.default_rng(count).standard_normal((count, 3, size, size)).astype(np.float32)
                for name, call in runs.items():
                    started = time.perf_counter()
                    call(pixels)
                    seconds.setdefault((name, count), []).append(time.perf_counter() - started)
    print("| way | batch | ms | frames/s | share of the matrix rate | of torch eager | device memory, GB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (name, count), times in sorted(seconds.items(), key=lambda item: item[0][1]):
        time_each = statistics.median(times)
        eager = statistics.median(seconds[EAGER, count]) / time_each if (EAGER, count) in seconds else float("nan")
        print(
            f"| {name} | {count} | {1e3 * time_each:.2f} ({1e3 * min(times):.2f}-{1e3 * max(times):.2f}) "
            f"| {count / time_each:.1f} | {count * flops / time_each / rate:.0%} | {eager:.2f} | {memory[name]:.2f} |"
        )


def matrix_rate() -> float:
    """Products of large fp16 matrices, multiplications and additions per second."""
    a, b = (torch.randn(_SIDE, _SIDE, device="cuda", dtype=torch.float16) for _ in range(2))
    return 2 * _SIDE**3 / best_seconds(lambda: a @ b)


def copy_rate() -> float:
    """Bytes per second of the card's memory, read and written."""
    a, b = (torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda") for _ in range(2))
    return 2 * _COPY_BYTES / best_seconds(lambda: b.copy_(a))


def best_seconds(call: Callable[[], object], times: int = 20) -> float:
    call()
    found = []
    for _ in range(times):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found)


def answers(model: str) -> None:
    """First token and speed of a bundle's answers, its clip encoded before."""
    torch.cuda.empty_cache()
    before = torch.cuda.mem_get_info()[0]
    with tempfile.TemporaryDirectory() as cache, Engine.open(model, device="cuda", note=print) as engine:
        os.environ["VLLAMA_CACHE"] = cache
        timeline = engine.index(_CLIP, fps=0.0)
        sampling = replace(engine.spec.llm.sampling, temperature=0.0, max_tokens=64)
        usages = []
        for question in _QUESTIONS:
            *_, last = engine.chat(timeline).ask(question, sampling=sampling, seed=0)
            assert last.usage is not None
            usages.append(last.usage)
        used = (before - torch.cuda.mem_get_info()[0]) / 1e9
    first = statistics.median(usage.first_token_ms for usage in usages)
    speed = statistics.median(usage.tokens_per_second for usage in usages)
    print(f"\n{model}: first token {first:.1f} ms, {speed:.1f} tokens/s, {used:.2f} GB of device memory.")


def driver() -> str:
    """Its version, as its own tool tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.splitlines()[0]


if __name__ == "__main__":
    main()
