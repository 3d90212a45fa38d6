"""The vision graph at full size on a GPU, random weights: torch eager, ONNX Runtime, TensorRT, torch.compile.

    python tests/gpu/bench_gpu.py [--entry video-llama-2-7b-chat] [--batches 1,8,32] [--rounds 7]
    python tests/gpu/bench_gpu.py --model BUNDLE

A time is that of one batch from the host's memory to the host's memory. Beside it stand the card's own limits, measured
in the same run: fp16 products of large matrices, and copies of its memory. Torch eager is open all the time. Each other
way, the cheapest to make first, is made, measured in turns with it, printed and closed before the next is made: a bench
that is stopped leaves what it had found. With a bundle instead its answers about a clip that ships with vllama: first
token, tokens per second, and the most memory of the card that was taken, looked at twenty times a second. Prints
Markdown. What cannot run, or for which the card has not the memory, is left out with the reason; --without leaves out
others. Not yet seen on a GPU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vllama.export.graphs import empty_graph
from vllama.export.staging import record_files
from vllama.export.to_onnx import to_onnx
from vllama.export.to_tensorrt import EngineOptions, add_engines, open_builder
from vllama.runtime import Engine
from vllama.runtime.backend import open_graph
from vllama.runtime.backend_onnx import check_cuda, check_kernels
from vllama.runtime.benchmark.flops import frame_flops
from vllama.runtime.bundle import Bundle, find_bundle, open_bundle
from vllama.runtime.errors import VllamaError
from vllama.runtime.gpus import Gpu, find_gpus
from vllama.runtime.llm.devices import gpu_memory
from vllama.runtime.llm.llm_file import read_llm_facts
from vllama.runtime.machine import nvidia_memory
from vllama.runtime.manifest import SCHEMA, Manifest
from vllama.runtime.placement import Placement
from vllama.runtime.plan import encoders_gpu_bytes, graph_needs, layers_that_fit, usable_bytes
from vllama.runtime.precision import Precision
from vllama.runtime.registry import find_spec, spec_to_dict
from vllama.runtime.spec import ModelSpec

_CLIP = Path(__file__).parents[2] / "cli" / "demo_clips" / "circle.mp4"
_QUESTIONS = ("What happens in the video?", "What do you hear?", "What happens last?")
_MADE = (
    Path(__file__).parents[2] / "build" / "bench-gpu"
)  # gigabytes, which a kill must not leave at a new place each time
_SIDE = 8192  # of a square matrix
_COPY_BYTES = 1 << 30
_LOOK_SECONDS = 0.05

EAGER = "torch eager fp16"

Run = Callable[[np.ndarray], np.ndarray]
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Way:
    """One way to run the graph: made and opened by `open`, given back by what that yields ending."""

    name: str
    open: Callable[[], AbstractContextManager[Run]]


def main() -> None:
    """Measure the card and every way at every batch, or a bundle's answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--entry", default="video-llama-2-7b-chat", help="whose dimensions, of models.toml")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--without", default="", help="ways, or how they begin: torch.compile,TensorRT")
    parser.add_argument("--model", help="a bundle for GPUs: its folder or its name")
    given = parser.parse_args()
    spec, gpu = find_spec(given.entry), find_gpus()[0]
    print(f"{gpu.name}, compute capability {gpu.capability}, {gpu.bytes / 1e9:.1f} GB, driver {driver()}")
    if given.model:
        answers(given.model, device="auto")  # what the card can; what was chosen is said
        return
    rate, bandwidth = matrix_rate(), copy_rate()
    torch.cuda.empty_cache()
    print(f"\nMeasured limits: {rate / 1e12:.0f} TFLOP/s of fp16 products, {bandwidth / 1e9:.0f} GB/s of memory.\n")
    shutil.rmtree(_MADE, ignore_errors=True)  # of a run that was killed
    _MADE.mkdir(parents=True)
    try:
        ways = without(given.without, all_ways(spec, gpu, _MADE))
        measure(ways, [int(size) for size in given.batches.split(",")], spec, given.rounds, rate)
    finally:
        shutil.rmtree(_MADE, ignore_errors=True)


def all_ways(spec: ModelSpec, gpu: Gpu, folder: Path) -> list[Way]:
    """The cheapest to make first; nothing is made before it is opened."""
    state = random_weights(spec)
    return [
        Way(EAGER, lambda: in_torch(spec, state)),
        Way("ONNX Runtime fp16", lambda: in_onnx(spec, state, gpu, folder)),
        Way("TensorRT fp16", lambda: in_tensorrt(spec, state, "fp16", gpu, folder)),
        Way("TensorRT w8a16", lambda: in_tensorrt(spec, state, "w8a16", gpu, folder)),
        Way("torch.compile fp16", lambda: in_torch(spec, state, compiled=True)),
    ]


def without(names: str, ways: Sequence[Way]) -> list[Way]:
    """Those whose names begin with none of some, which stand with commas between."""
    left_out = tuple(name for name in names.split(",") if name)
    return [way for way in ways if not way.name.startswith(left_out)]


def random_weights(spec: ModelSpec) -> Weights:
    """Of a plausible size, the same each time."""
    torch.manual_seed(0)

    def drawn(key: str, tensor: torch.Tensor) -> torch.Tensor:
        is_norm = tensor.ndim == 1 and "norm" in key.lower() and key.endswith("weight")
        return torch.randn(tensor.shape) * (0.02 if tensor.ndim > 1 else 0.1) + float(is_norm)

    return {key: drawn(key, tensor) for key, tensor in empty_graph("frames", spec).state_dict().items()}


def one_graph(spec: ModelSpec, state: Weights, precision: Precision, folder: Path) -> Bundle:
    """A bundle of the vision graph alone, written once into a folder of its precision."""
    folder = folder / precision
    if not folder.exists():
        folder.mkdir()
        to_onnx(empty_graph("frames", spec), state.__getitem__, folder / "frames.onnx", precision)
    files = record_files(folder, ("frames.onnx", "frames.onnx.data"))
    manifest = Manifest(SCHEMA, spec.name, "", spec_to_dict(spec), "", {}, files, {"frames": precision}, {}, ())
    return Bundle(folder, manifest, spec)


@contextmanager
def in_torch(spec: ModelSpec, state: Weights, *, compiled: bool = False) -> Iterator[Run]:
    graph = halves(spec, state, "cuda")
    call = torch.compile(graph) if compiled else graph

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            features: np.ndarray = call(torch.from_numpy(pixels).cuda().half()).float().cpu().numpy()
        return features

    yield run
    torch.compiler.reset()


def halves(spec: ModelSpec, state: Weights, device: str) -> torch.nn.Module:
    """The graph in fp16, which it is before it is there: in fp32 it would take twice the memory on its way."""
    graph = empty_graph("frames", spec).half().to_empty(device=device)
    graph.load_state_dict(state)
    return graph


@contextmanager
def in_onnx(spec: ModelSpec, state: Weights, gpu: Gpu, folder: Path) -> Iterator[Run]:
    check_kernels(gpu)  # before a minute's work is done for nothing
    check_cuda()
    with in_backend(one_graph(spec, state, "fp16", folder), Placement("onnx", gpu)) as run:
        yield run


@contextmanager
def in_tensorrt(spec: ModelSpec, state: Weights, precision: Precision, gpu: Gpu, folder: Path) -> Iterator[Run]:
    builder = open_builder(EngineOptions(targets=(gpu.capability,)))  # as above
    bundle = one_graph(spec, state, precision, folder)
    bundle = add_engines(bundle, builder, lambda part, done, total: None, lambda cost: None)
    with in_backend(bundle, Placement("tensorrt", gpu)) as run:
        yield run


@contextmanager
def in_backend(bundle: Bundle, placement: Placement) -> Iterator[Run]:
    backend = open_graph(bundle, "frames", placement)
    try:
        yield lambda pixels: backend.run({"pixel_values": pixels})["frame_features"]
    finally:
        backend.close()


def measure(ways: Sequence[Way], sizes: Sequence[int], spec: ModelSpec, rounds: int, rate: float) -> None:
    """A row for each way and batch, as soon as it is known; torch eager stays open, to take turns with each other."""
    print("| way | batch | ms | frames/s | share of the matrix rate | of torch eager | device memory, GB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    size, share = spec.video.image_size, frame_flops(spec.video) / rate
    batches = [np.random.default_rng(count).standard_normal((count, 3, size, size), np.float32) for count in sizes]
    with ExitStack() as to_the_end:
        eager: Run | None = None
        for way in ways:
            with ExitStack() as own:
                try:
                    run, memory = opened(way, batches, own)
                    for pixels in batches:
                        mine, *others = in_turns([run, eager] if eager else [run], pixels, rounds)
                        yardstick = mine if way.name == EAGER else others[0] if others else None
                        print(row(way.name, len(pixels), mine, yardstick, share, memory), flush=True)
                except (VllamaError, RuntimeError) as error:  # the last: torch, of memory too
                    reason = " ".join(str(error).split())[:200].replace("|", "/")
                    print(f"| {way.name} | | left out: {reason} | | | | |", flush=True)
                    continue
                if way.name == EAGER:
                    eager = run
                    to_the_end.enter_context(own.pop_all())


def opened(way: Way, batches: Sequence[np.ndarray], closing: ExitStack) -> tuple[Run, float]:
    """A way that has run every batch, so that all is compiled, and the GB of the card that it then holds."""
    torch.cuda.empty_cache()  # torch keeps what it took before, and would take none for this
    before = torch.cuda.mem_get_info()[0]
    run = closing.enter_context(way.open())
    torch.cuda.empty_cache()  # what making it took
    for pixels in batches:
        run(pixels)
    return run, (before - torch.cuda.mem_get_info()[0]) / 1e9


def in_turns(runs: Sequence[Run], pixels: np.ndarray, rounds: int) -> list[list[float]]:
    """The seconds of each, round by round."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, own in zip(runs, seconds, strict=True):
            started = time.perf_counter()
            run(pixels)
            own.append(time.perf_counter() - started)
    return seconds


def row(name: str, count: int, seconds: list[float], eager: list[float] | None, share: float, memory: float) -> str:
    """Of the table; share: of the matrix rate, of one picture in a second."""
    each = statistics.median(seconds)
    ratio = f"{statistics.median(eager) / each:.2f}" if eager else "-"
    return (
        f"| {name} | {count} | {1e3 * each:.2f} ({1e3 * min(seconds):.2f}-{1e3 * max(seconds):.2f}) "
        f"| {count / each:.1f} | {count * share / each:.0%} | {ratio} | {memory:.2f} |"
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


def answers(model: str, device: str) -> None:
    """First token and speed of a bundle's answers, its clip encoded before, and the most memory of the card."""
    bundle = open_bundle(find_bundle(model))
    with tempfile.TemporaryDirectory() as cache, most_taken() as taken:
        layers, said = llm_layers(bundle)  # asks CUDA, and so takes its first memory
        print(f"\n{said}", flush=True)
        os.environ["VLLAMA_CACHE"] = cache
        with Engine(bundle, device=device, gpu_layers=layers) as engine:
            print(engine.placement.says, flush=True)
            timeline = engine.index(_CLIP, fps=0.0)
            sampling = replace(engine.spec.llm.sampling, temperature=0.0, max_tokens=64)
            usages = []
            for question in _QUESTIONS:
                *_, last = engine.chat(timeline).ask(question, sampling=sampling, seed=0)
                assert last.usage is not None
                usages.append(last.usage)
    first = statistics.median(usage.first_token_ms for usage in usages)
    speed = statistics.median(usage.tokens_per_second for usage in usages)
    most = f"{max(taken) / 1e9:.2f} GB" if nvidia_memory() else "an unknown amount"
    print(
        f"\n{bundle.spec.name} {bundle.manifest.precision['llm']}: first token {first:.1f} ms, {speed:.1f} tokens/s, "
        f"{most} of device memory at the most.\n",
        flush=True,
    )


@contextmanager
def most_taken() -> Iterator[list[int]]:
    """Bytes of the card that were taken meanwhile, CUDA's own included; asking the driver takes none."""
    before, taken, ended = free_bytes(), [0], threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_SECONDS):
            taken.append(before - free_bytes())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield taken
    finally:
        ended.set()
        looking.join()


def free_bytes() -> int:
    """Of all NVIDIA GPUs."""
    return sum(gpu.free for gpu in nvidia_memory())


def llm_layers(bundle: Bundle) -> tuple[int, str]:
    """How many layers of the language model go to the GPU beside the encoders, as `--gpu-layers auto` has it."""
    facts, gpus = read_llm_facts(bundle.llm), gpu_memory()
    room = usable_bytes(gpus, started=True) - encoders_gpu_bytes(graph_needs(bundle))
    layers = layers_that_fit(facts, bundle.spec.llm.n_ctx, bundle.kv, room) if gpus else 0
    can = "has a GPU" if gpus else "finds no GPU, or was built without support for one"
    return layers, f"llama.cpp {can}: {layers} of {len(facts.blocks) + 1} layers of the language model are on it."


def driver() -> str:
    """Its version, as its own tool tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.splitlines()[0]


if __name__ == "__main__":
    try:
        main()
    except VllamaError as error:
        sys.exit(f"bench_gpu: {error}")
