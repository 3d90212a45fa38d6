"""vllama beside plain torch, a plain onnxruntime session and llama.cpp itself, on the same weights and machine.

    python tests/bench/bench_compare.py --bundle BUNDLE [--weights FOLDER] [--rounds 7] [--defaults]

The encoders (bench_encoders.py) are compared where the published files are given, and the language model always: with
llama.cpp called as its own llama-bench calls it (a cleared cache, a prompt in slices of n_batch, then token by token;
no checks, no sampling), with vllama's settings and, with --defaults, with llama.cpp's own, whose second copy of the
weights needs 4 GB more for a 7B. All in one process, in turns, in another order each round; random tokens, float16
cache. Each time is that of one position. llama.cpp's own clock (`llama_perf_context`) stands beside ours.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from bench_encoders import add_options, compare_encoders
from turns import OURS, clocked, machine, print_turns, ratio

from vllama.runtime.bundle import find_bundle, open_bundle
from vllama.runtime.llm.backbone import Backbone
from vllama.runtime.llm.llama_context import UBATCH_CPU
from vllama.runtime.spec import Sampling
from vllama.runtime.types import Embeds, Float32

_WHAT = ("prompt of tokens", "prompt of embeds", "token of an answer")
_PLAIN, _DEFAULTS = "llama.cpp", "llama.cpp, its defaults"
_DEFAULT_BATCH, _DEFAULT_UBATCH = 2048, 512
Row = dict[str, tuple[float, float]]  # by what: (wall, processor) seconds of one position


class Contender(Protocol):
    """A language model that can be clocked."""

    def read_tokens(self, ids: list[int]) -> None:
        """A prompt that it has not seen, from an empty cache."""

    def read_embeds(self, rows: Float32) -> None:
        """The same of embeds."""

    def write(self, count: int) -> int:
        """So many tokens after the prompt; how many were decoded one by one."""


class Vllama:
    """As an answer is made: with all checks, the search for a common prefix, and sampling."""

    def __init__(self, path: Path, n_ctx: int, threads: int) -> None:
        self._backbone = Backbone(path, n_ctx, threads=threads)
        self.hidden_size, self.n_vocab = self._backbone.hidden_size, self._backbone.n_vocab

    def read_tokens(self, ids: list[int]) -> None:
        self._backbone.prefill([ids])

    def read_embeds(self, rows: Float32) -> None:
        self._backbone.prefill([Embeds(rows, "video")])

    def write(self, count: int) -> int:
        made = len(list(self._backbone.generate(Sampling(0.0, 1.0, 0, count + 1), 0)))
        return max(made - 1, 1)  # the first one came with the prompt

    def close(self) -> None:
        self._backbone.close()


class Plain:
    """llama.cpp's own calls and nothing else."""

    def __init__(self, path: Path, n_ctx: int, threads: int, *, defaults: bool) -> None:
        import llama_cpp.llama_cpp as lib

        self._lib: Any = lib
        about = lib.llama_model_default_params()
        about.use_extra_bufts = defaults
        self._model = lib.llama_model_load_from_file(os.fsencode(path), about)
        how = lib.llama_context_default_params()
        how.n_ctx, how.no_perf = n_ctx, False
        how.n_batch, how.n_ubatch = (_DEFAULT_BATCH, _DEFAULT_UBATCH) if defaults else (UBATCH_CPU, UBATCH_CPU)
        how.n_threads = how.n_threads_batch = threads
        self._context = lib.llama_init_from_model(self._model, how)
        assert self._context, path
        self._batch = int(lib.llama_n_batch(self._context))

    def read_tokens(self, ids: list[int]) -> None:
        self._clear()
        for first in range(0, len(ids), self._batch):
            self._decode_tokens(ids[first : first + self._batch])

    def read_embeds(self, rows: Float32) -> None:
        self._clear()
        for first in range(0, len(rows), self._batch):
            part = np.ascontiguousarray(rows[first : first + self._batch])
            batch = self._lib.llama_batch()
            batch.n_tokens, batch.embd = len(part), part.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            self._decode(batch)

    def write(self, count: int) -> int:
        for token in range(count):
            self._decode_tokens([3 + token])
        return count

    def own_clock(self) -> str:
        """Positions per second by `llama_perf_context`, of all that was done."""
        found = self._lib.llama_perf_context(self._context)
        prompts, tokens = 1000 * found.n_p_eval / found.t_p_eval_ms, 1000 * found.n_eval / found.t_eval_ms
        return f"{prompts:.1f} positions/s of prompts, {tokens:.2f} tokens/s"

    def close(self) -> None:
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

    def _clear(self) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def _decode_tokens(self, ids: list[int]) -> None:
        tokens = (ctypes.c_int32 * len(ids))(*ids)  # the batch points to it
        self._decode(self._lib.llama_batch_get_one(tokens, len(ids)))

    def _decode(self, batch: Any) -> None:
        assert self._lib.llama_decode(self._context, batch) == 0
        self._lib.llama_synchronize(self._context)


def main() -> None:
    """Compare what can be compared."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser, needed=False)
    parser.add_argument("--bundle", required=True, help="a bundle: its folder or its name")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--positions", type=int, default=128, help="of a prompt")
    parser.add_argument("--tokens", type=int, default=16, help="of an answer")
    parser.add_argument("--defaults", action="store_true", help="llama.cpp's own settings, too")
    given = parser.parse_args()
    print(machine(given.threads, "torch", "onnxruntime", "llama-cpp-python"))
    compare_llm(given)
    if given.weights:
        compare_encoders(given)


def compare_llm(given: argparse.Namespace) -> None:
    """Open everything, read and write in turns, print a table for each."""
    path, n_ctx = open_bundle(find_bundle(given.bundle)).llm, given.positions + given.tokens + 2
    rng, order = np.random.default_rng(0), random.Random(0)
    with ExitStack() as opened:
        ours = opened.enter_context(closing(Vllama(path, n_ctx, given.threads)))
        plain = {_PLAIN: opened.enter_context(closing(Plain(path, n_ctx, given.threads, defaults=False)))}
        if given.defaults:
            plain[_DEFAULTS] = opened.enter_context(closing(Plain(path, n_ctx, given.threads, defaults=True)))
        contenders: dict[str, Contender] = {OURS: ours, **plain}
        found: dict[str, list[Row]] = {name: [] for name in contenders}
        for number in range(-1, given.rounds):  # the first round warms up
            ids = rng.integers(3, ours.n_vocab, given.positions).tolist()
            rows = rng.standard_normal((given.positions, ours.hidden_size), np.float32)
            rows /= 50  # as wide as token rows
            for name in order.sample([*contenders], len(contenders)):  # who came before tells on the cores
                row = measured(contenders[name], ids, rows, given.tokens)
                if number >= 0:
                    found[name].append(row)
        for what in _WHAT:
            print_turns(what, {name: [row[what] for row in each] for name, each in found.items()})
        print_ratios(found, plain)


def measured(contender: Contender, ids: list[int], rows: Float32, tokens: int) -> Row:
    """Two prompts and an answer."""
    made: list[int] = []

    def write() -> None:
        made.append(contender.write(tokens))

    embeds = clocked(partial(contender.read_embeds, rows))
    words = clocked(partial(contender.read_tokens, ids))
    answer = clocked(write)
    costs = zip(_WHAT, (words, embeds, answer), (len(ids), len(rows), made[0]), strict=True)
    return {what: (wall / count, processor / count) for what, (wall, processor), count in costs}


def print_ratios(found: dict[str, list[Row]], plain: dict[str, Plain]) -> None:
    """Speeds: of vllama to llama.cpp, and of embeds to tokens; and llama.cpp's own clock."""
    print("\nspeed of vllama, of llama.cpp's with the same settings (1: as fast), within a round")
    for what in _WHAT:
        speeds = ratio([row[what] for row in found[_PLAIN]], [row[what] for row in found[OURS]])
        print(f"{what:<24} {speeds:>17}")
    rounds = found[OURS]
    print(f"{'embeds to tokens':<24} {ratio([row[_WHAT[0]] for row in rounds], [row[_WHAT[1]] for row in rounds]):>17}")
    for name, contender in plain.items():
        print(f"{name}, its own clock: {contender.own_clock()}")


if __name__ == "__main__":
    main()
