"""A prompt of words and media in turns: read in one batch, as vllama does, against each piece by itself.

    python tests/bench/bench_batches.py --model BUNDLE [--rounds 4]

Both in turns, A B A B, in one process, random tokens and embeds in the lengths of a question about picture and sound.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from vllama.runtime.bundle import find_bundle, open_bundle
from vllama.runtime.llm.backbone import Backbone
from vllama.runtime.types import Embeds

_LENGTHS = (29, 8, 32, 32, 90)  # words, sound, words, picture, words


def main() -> None:
    """Read, print medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="a bundle: its folder or its name")
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    bundle = open_bundle(find_bundle(given.model))
    with Backbone(bundle.llm, bundle.spec.llm.n_ctx, kv=bundle.kv) as backbone:
        prompt = random_prompt(backbone)
        found: dict[str, list[tuple[float, float]]] = {"piece by piece": [], "one batch": []}
        for _ in range(given.rounds):
            for name, rounds in found.items():
                backbone.prefill([[0]])  # nothing of the prompt is left in the KV cache
                wall, processor = time.perf_counter(), time.process_time()
                for end in range(1 if name == "piece by piece" else len(prompt), len(prompt) + 1):
                    backbone.prefill(prompt[:end])
                rounds.append((time.perf_counter() - wall, time.process_time() - processor))
    print(f"{sum(_LENGTHS)} positions, {time.strftime('%Y-%m-%d')}")
    for name, rounds in found.items():
        wall, processor = (statistics.median(each) for each in zip(*rounds, strict=True))
        print(f"{name:<15} {wall:8.3f} s, {processor:8.3f} s of the processor")


def random_prompt(backbone: Backbone) -> list[list[int] | Embeds]:
    """Tokens, and embeds about as wide as the rows of a token table."""
    rng = np.random.default_rng(0)
    prompt: list[list[int] | Embeds] = []
    for number, length in enumerate(_LENGTHS):
        if number % 2:
            rows = rng.standard_normal((length, backbone.hidden_size), np.float32)
            rows /= 50
            prompt.append(Embeds(rows, "video"))
        else:
            prompt.append(rng.integers(3, backbone.n_vocab, length).tolist())
    return prompt


if __name__ == "__main__":
    main()
