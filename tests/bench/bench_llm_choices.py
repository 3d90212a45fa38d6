"""How llama.cpp is run on the CPU: rows at once, repacked weights, type of the KV cache, threads; speed and cancelling.

    python tests/bench/bench_llm_choices.py --gguf FILE [--choices ubatch-256 repack ...] [--rounds 5] [--threads 2]

Each choice opens the file for itself; mapped weights are shared. All are asked in turns, in one process, in another
order each round; the ratios are to the first one of the same round. Cancelling: from the call of `cancel` to the end of
a prompt's reading, at moments spread over it. Opening and memory are measured in a fresh process each.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vllama.runtime.benchmark.own_process import in_own_process
from vllama.runtime.llm.backbone import Backbone
from vllama.runtime.llm.llama_context import Kv, check_model
from vllama.runtime.machine import peak_bytes
from vllama.runtime.spec import Sampling

CHOICES = ("ubatch-256", "ubatch-32", "ubatch-64", "ubatch-128", "ubatch-512", "repack", "q8_0", "thread-less")


@dataclass(frozen=True)
class Costs:
    """Seconds for one prompt and for one token of an answer, by the clock and of the processor.

    cancel: from cancelling to the end; None: it came too late.
    """

    prompt: float
    prompt_cpu: float
    token: float
    token_cpu: float
    cancel: float | None


def main() -> None:
    """Measure, print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=CHOICES)
    parser.add_argument("--positions", type=int, default=512, help="of a prompt")
    parser.add_argument("--tokens", type=int, default=16, help="of an answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {given.threads} threads, {time.strftime('%Y-%m-%d')}")
    print_openings(given.gguf, given.choices, given.threads)
    n_ctx = given.positions + given.tokens + 1
    found: dict[str, list[Costs]] = {name: [] for name in given.choices}
    rng = random.Random(0)
    with ExitStack() as opened:
        models = {n: opened.enter_context(open_model(given.gguf, n_ctx, n, given.threads)) for n in given.choices}
        for number in range(-1, given.rounds):  # the first round warms up
            for name in rng.sample(given.choices, len(given.choices)):  # who came before tells on the cores
                costs = measured(models[name], given.positions, given.tokens, rng)
                if number >= 0:
                    found[name].append(costs)
    print_speeds(found, given.positions)


def open_model(path: Path, n_ctx: int, choice: str, threads: int) -> Backbone:
    """A backbone that differs from the first choice in one thing."""
    n_ubatch = int(choice.removeprefix("ubatch-")) if choice.startswith("ubatch-") else None
    threads = max(1, threads - 1) if choice == "thread-less" else threads
    kv: Kv = "q8_0" if choice == "q8_0" else "f16"
    return Backbone(path, n_ctx, threads=threads, n_ubatch=n_ubatch, kv=kv, repack=choice == "repack")


def measured(backbone: Backbone, positions: int, tokens: int, rng: random.Random) -> Costs:
    """One prompt, one answer, and one prompt that is cancelled."""
    started, processor = time.perf_counter(), time.process_time()
    backbone.prefill([prompt(positions, rng)])
    read, read_cpu = time.perf_counter(), time.process_time()
    made = len(list(backbone.generate(Sampling(0, 1.0, 0, tokens), 0)))
    decoded = max(made - 1, 1)  # the first token came with the prompt, and an answer may end early
    token, token_cpu = (time.perf_counter() - read) / decoded, (time.process_time() - read_cpu) / decoded
    cancelled: list[float] = []

    def cancel() -> None:
        time.sleep(rng.random() * 0.8 * (read - started))
        cancelled.append(time.perf_counter())
        backbone.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    backbone.prefill([prompt(positions, rng)])
    ended = time.perf_counter()
    thread.join()
    cost = ended - cancelled[0]
    return Costs(read - started, read_cpu - processor, token, token_cpu, cost if cost > 0 else None)


def prompt(positions: int, rng: random.Random) -> list[int]:
    """Nothing of it is in the KV cache, because its second token is another one."""
    return [1, *(rng.randrange(3, 600) for _ in range(positions - 1))]


def print_openings(path: Path, choices: list[str], threads: int) -> None:
    """What opening costs, each in a fresh process."""
    print(f"\n{'opened':<14} {'seconds':>8} {'CPU s':>8} {'RSS GB':>8} {'peak after a token, GB':>23}")
    kinds = [choice for choice in ("ubatch-256", "repack", "q8_0") if choice in choices]
    for choice in (*kinds, "check_tensors"):
        row = in_own_process(opening, path, choice, threads, say=print)
        print(f"{choice:<14} {row[0]:>8.2f} {row[1]:>8.2f} {row[2] / 1e9:>8.2f} {row[3] / 1e9:>23.2f}", flush=True)


def opening(path: Path, choice: str, threads: int, say: Callable[[str], None]) -> tuple[float, float, float, float]:
    """Wall and processor seconds of opening, and the peak of memory then and after one token; n_ctx is 512."""
    started, processor = time.perf_counter(), time.process_time()
    if choice == "check_tensors":
        check_model(path)
        return time.perf_counter() - started, time.process_time() - processor, peak_bytes() or 0, 0
    with open_model(path, 512, choice, threads) as backbone:
        seconds, processor = time.perf_counter() - started, time.process_time() - processor
        before = peak_bytes() or 0
        backbone.prefill([[1, 300]])
        return seconds, processor, before, peak_bytes() or 0


def print_speeds(found: dict[str, list[Costs]], positions: int) -> None:
    """Medians, and ratios to the first choice with their spread."""
    first = next(iter(found.values()))
    kinds = "".join(f" {what + '/s':>9} {'x time':>17} {'x CPU':>17}" for what in ("prompt", "tokens"))
    print(f"\n{'':<12}{kinds} {'cancel ms':>10} {'most':>7}")
    for name, rounds in found.items():
        prompts = positions / statistics.median(each.prompt for each in rounds)
        tokens = 1 / statistics.median(each.token for each in rounds)
        cancels = [1000 * each.cancel for each in rounds if each.cancel is not None] or [float("nan")]
        ratios = [spread([getattr(a, kind) / getattr(b, kind) for a, b in zip(rounds, first, strict=True)])
                  for kind in ("prompt", "prompt_cpu", "token", "token_cpu")]  # fmt: skip
        row = f"{name:<12} {prompts:>9.1f} {ratios[0]:>17} {ratios[1]:>17}"
        row += f" {tokens:>9.2f} {ratios[2]:>17} {ratios[3]:>17}"
        print(f"{row} {statistics.median(cancels):>10.1f} {max(cancels):>7.1f}")


def spread(ratios: list[float]) -> str:
    """The median, and the least and the most."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


if __name__ == "__main__":
    main()
