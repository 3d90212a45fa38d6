"""The RAM that `vllama plan` foretells against the peak of a process: indexing, asking about a new and an indexed clip.

    python tests/bench/bench_plan.py --model BUNDLE --clip CLIP [--kv q8_0] [--ctx-size N] [--threads N]

Each is done in a fresh process, the bundle verified before; mapped files count, as they do in the plan.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from vllama.runtime import Engine, Sampling
from vllama.runtime.benchmark.own_process import in_own_process
from vllama.runtime.bundle import find_bundle, open_bundle, read_bundle
from vllama.runtime.llm.llama_context import Kv
from vllama.runtime.llm.llm_file import read_llm_facts
from vllama.runtime.machine import peak_bytes
from vllama.runtime.plan import graph_needs, make_plan

WAYS = ("index", "indexed", "new")


def main() -> None:
    """Foretell, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model")
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--kv", choices=("f16", "q8_0"), default="f16")
    parser.add_argument("--ctx-size", type=int)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args()
    bundle = read_bundle(find_bundle(given.model))
    n_ctx = given.ctx_size or bundle.spec.llm.n_ctx
    plan = make_plan(read_llm_facts(bundle.llm), graph_needs(bundle), n_ctx, given.kv)
    foretold = {"index": plan.ram_indexing, "indexed": plan.ram_answering, "new": plan.ram_encoding}
    print(f"{'':<8} {'plan MB':>9} {'peak MB':>9} {'plan / peak':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            cache = Path(folder) / ("new" if way == "new" else "indexed")
            in_own_process(verify, str(bundle.folder), str(cache), say=print)
            how = (str(bundle.folder), str(given.clip), str(cache), given.threads, n_ctx, given.kv, way)
            peak = in_own_process(peak_of, *how, say=print)
            row = f"{way:<8} {foretold[way] / 1e6:>9,.0f} {peak / 1e6:>9,.0f} {foretold[way] / peak:>12.3f}"
            print(row, flush=True)


def verify(model: str, cache: str, say: Callable[[str], None]) -> None:
    """The first time that a bundle is opened it is read from end to end, which would be the peak."""
    os.environ["VLLAMA_CACHE"] = cache
    open_bundle(Path(model))


def peak_of(
    model: str, clip: str, cache: str, threads: int | None, n_ctx: int, kv: Kv, way: str, say: Callable[[str], None]
) -> int:
    """Bytes at most while one of `WAYS` is gone."""
    os.environ["VLLAMA_CACHE"] = cache
    with Engine.open(model, threads=threads, n_ctx=n_ctx, kv=kv, gpu_layers=0, answers=way != "index") as engine:
        timeline = engine.index(clip, fps=0.0)
        if way != "index":
            list(engine.chat(timeline).ask("What happens?", sampling=Sampling(0, 1.0, 0, 2)))
    peak = peak_bytes()
    assert peak is not None
    return peak


if __name__ == "__main__":
    main()
