from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vllama.runtime import Engine, Sampling


@pytest.fixture
def engine(tiny_bundle: Path, cache: Path) -> Iterator[Engine]:
    """The tiny original, with a cache of its own."""
    with Engine.open(tiny_bundle) as engine:
        yield engine


def greedy(engine: Engine, tokens: int = 12) -> Sampling:
    return replace(engine.spec.llm.sampling, max_tokens=tokens, temperature=0.0)
