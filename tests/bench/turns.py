"""What benches that run in turns share: a clock, and a table of medians, spread and ratios within each round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

from vllama.runtime.benchmark.limits import processor_name

Times = dict[str, list[tuple[float, float]]]  # by name: (wall, processor) seconds of each round
OURS = "vllama"
_REST = 0.1  # seconds before each run, so that threads that wait by spinning have stopped


def machine(threads: int, *packages: str) -> str:
    """Where and with what it was measured, in a line."""
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"{processor_name()}, {threads} threads, {time.strftime('%Y-%m-%d')}, {versions}"


def clocked(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds of a call, all threads together."""
    time.sleep(_REST)
    wall, processor = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - processor


def print_turns(title: str, times: Times, notes: Mapping[str, str] | None = None) -> None:
    """Medians, spread, and how many times as long as vllama each took; notes: more about each."""
    print(f"\n{title}, {len(next(iter(times.values())))} rounds")
    print(f"{'':<24} {'wall ms':>9} {'least':>9} {'most':>9} {'CPU ms':>9} {'x wall':>17} {'x CPU':>17}")
    for name, rounds in times.items():
        walls, processors = ([1000 * each[kind] for each in rounds] for kind in (0, 1))
        columns = (statistics.median(walls), min(walls), max(walls), statistics.median(processors))
        row = " ".join(f"{column:>9.1f}" for column in columns)
        ratios = "".join(f" {ratio(rounds, times[OURS], kind):>17}" for kind in (0, 1))
        print(f"{name:<24} {row}{ratios} {(notes or {}).get(name, '')}".rstrip(), flush=True)


def ratio(rounds: list[tuple[float, float]], others: list[tuple[float, float]], kind: int = 0) -> str:
    """Of the same rounds: the median, the least and the most; kind: 0 wall, 1 processor."""
    found = [one[kind] / other[kind] for one, other in zip(rounds, others, strict=True) if other[kind]]
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})" if found else ""
