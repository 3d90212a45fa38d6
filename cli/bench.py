"""`vllama bench`: how fast a model is on this machine, beside what the machine could do at best."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vllama.runtime.benchmark.benchmark import run_benchmark
from vllama.runtime.benchmark.figures import Benchmark, Setup
from vllama.runtime.benchmark.limits import processor_name
from vllama.runtime.bundle import find_bundle, open_bundle
from vllama.runtime.machine import physical_cores

from . import options
from .render import verifying_bar

_STAGES = {
    "decode": "a picture decoded and stretched",
    "frame": "a frame: vision encoder, image Q-former",
    "clip": "a stretch of sound: audio encoder",
    "video": "a question: video Q-former",
    "audio": "a question: audio Q-former",
}


def bench(
    model: options.Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long each figure is measured.")] = 2.0,
    threads: options.Threads = None,
    device: options.Device = "auto",
    runner: options.Runner = "auto",
    gpu_layers: options.GpuLayers = "auto",
    kv: options.KvCache = None,
) -> None:
    """Measure this machine: encoding, indexing, first tokens, tokens per second, memory; no clip is needed.

    Takes half a minute with the miniature and some minutes with a 7B. Leave the machine alone meanwhile.
    """
    folder = find_bundle(model)
    with verifying_bar() as verifying:
        open_bundle(folder, verifying)
    setup = Setup(folder, threads or physical_cores(), device, runner, gpu_layers, kv)
    with _saying() as say:
        found = run_benchmark(setup, seconds, say)
    if as_json:
        print(json.dumps(figures(found)))
    else:
        show(found)


def figures(found: Benchmark) -> dict[str, object]:
    """All of it for scripts: milliseconds, seconds, bytes, rates per second; shares of 1, null where there is none."""
    encoding, answering, limits = found.encoding, found.answering, found.limits
    return {
        "model": found.model,
        "precision": found.precision,
        "machine": {"processor": processor_name(), "cores": physical_cores(), "threads": found.setup.threads},
        "device": encoding.device,
        "llm": answering.how,
        "limits": {
            "fp32_gflops": limits.fp32_flops / 1e9,
            "int8_gops": limits.int8_ops / 1e9,
            "read_gb_per_second": limits.read_bytes / 1e9,
        },
        "stages": {
            each.name: {"ms": each.ms, "per_second": 1000 / each.ms, "gflop": each.gflop, "share": found.share(each)}
            for each in encoding.stages
        },
        "index": {"clip_seconds": encoding.clip_seconds, "seconds": encoding.index_seconds, "speed": found.index_speed},
        "ready_ms": answering.ready_ms,
        "prompt_tokens": answering.prompt_tokens,
        "first_token_ms": {"cold": answering.cold_ms, "warm": answering.warm_ms, "ahead": answering.ahead_ms},
        "prefill_tokens_per_second": answering.prefill_rate,
        "decode": {
            "tokens_per_second": answering.decode_rate,
            "bytes_per_token": answering.bytes_per_token,
            "share": found.decode_share,
        },
        "peak_bytes": {"encoding": encoding.peak_bytes, "answering": answering.peak_bytes},
    }


@contextmanager
def _saying() -> Iterator[Callable[[str], None]]:
    """What is measured now, on a terminal only."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("measuring") as status:
        yield lambda text: status.update(f"measuring: {text}")


def show(found: Benchmark) -> None:
    """Three tables to stdout."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    precision = ", ".join(f"{part} {kind}" for part, kind in found.precision.items())
    console.print(f"{found.model} ({precision})", highlight=False)
    console.print(f"{processor_name()}, {physical_cores()} cores, {found.setup.threads} threads", highlight=False)
    console.print(f"encoders on {found.encoding.device}; {found.answering.how}", highlight=False)
    for table in (_limits(found), _encoding(found), _answering(found)):
        console.print(table)


def _limits(found: Benchmark) -> Table:
    table = Table(title="what the machine can do", title_justify="left")
    for column in ("multiply and add, fp32", "int8", "read memory"):
        table.add_column(column, justify="right")
    limits = found.limits
    table.add_row(
        f"{limits.fp32_flops / 1e9:.0f} GFLOP/s", f"{limits.int8_ops / 1e9:.0f} GOP/s",
        f"{limits.read_bytes / 1e9:.1f} GB/s",
    )  # fmt: skip
    return table


def _encoding(found: Benchmark) -> Table:
    table = Table(title="encoding", title_justify="left")
    table.add_column("")
    for column in ("ms", "per second", "GFLOP", "of the machine"):
        table.add_column(column, justify="right")
    for stage in found.encoding.stages:
        work = (f"{stage.gflop:.2f}" if stage.gflop else "", _percent(found.share(stage)))
        table.add_row(_STAGES[stage.name], f"{stage.ms:.1f}", f"{1000 / stage.ms:.2f}", *work)
    encoding = found.encoding
    indexed = f"{encoding.clip_seconds:.0f} s of video: a frame a second, all sound"
    table.add_row(indexed, f"{1000 * encoding.index_seconds:.0f}", f"{found.index_speed:.2f} x real time")
    table.add_row("most memory while encoding", _size(encoding.peak_bytes))
    return table


def _answering(found: Benchmark) -> Table:
    table = Table(title="answering from a saved timeline", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    cost = found.answering
    table.add_row("ready to be asked", f"{cost.ready_ms:.0f} ms")
    table.add_row(f"first token, cold ({cost.prompt_tokens} tokens to read)", f"{cost.cold_ms:.0f} ms")
    table.add_row("first token of the next question", f"{cost.warm_ms:.0f} ms")
    table.add_row("first token, media read ahead", f"{cost.ahead_ms:.0f} ms")
    table.add_row("reading a prompt", f"{cost.prefill_rate:.1f} tokens/s")
    table.add_row("writing an answer", f"{cost.decode_rate:.1f} tokens/s")
    if found.decode_share is not None:
        read = (
            f"{cost.decode_rate * cost.bytes_per_token / 1e9:.1f} GB/s, {_percent(found.decode_share)} of the machine"
        )
        table.add_row("which reads", read)
    table.add_row("most memory while answering", _size(cost.peak_bytes))
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _size(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.2f} GB"
