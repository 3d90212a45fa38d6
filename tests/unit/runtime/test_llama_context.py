from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vllama.export.llama import open_llama
from vllama.export.to_gguf import to_gguf
from vllama.runtime.llama_context import LlamaContext
from vllama.runtime.spec import ModelSpec

TOKENS = np.arange(300, 340, dtype=np.int32)


@pytest.fixture(scope="module")
def path(vicuna_spec: ModelSpec, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llm") / "llm.gguf"
    to_gguf(open_llama(vicuna_spec, tiny_weights), vicuna_spec, path, "F16")
    return path


@pytest.fixture
def cancel() -> threading.Event:
    return threading.Event()


@pytest.fixture
def context(path: Path, cancel: threading.Event) -> Iterator[LlamaContext]:
    opened = LlamaContext(path, 64, threads=1, gpu_layers=0, reference=True, cancel=cancel)
    yield opened
    opened.close()


def test_rows_are_appended_and_logits_only_made_where_wanted(context: LlamaContext) -> None:
    assert context.length == 0
    assert context.decode(TOKENS, wanted=False) is None
    assert context.length == 40
    logits = context.decode(TOKENS[:1], wanted=True)
    assert logits is not None
    assert (logits.shape, logits.dtype, context.length) == ((context.n_vocab,), np.float32, 41)


def test_what_was_truncated_is_forgotten(context: LlamaContext) -> None:
    context.decode(TOKENS, wanted=False)
    context.truncate(8)
    assert context.length == 8
    again = context.decode(TOKENS[8:9], wanted=True)
    context.truncate(0)
    context.decode(TOKENS[:8], wanted=False)
    np.testing.assert_array_equal(again, context.decode(TOKENS[8:9], wanted=True))


def test_a_decode_ends_where_it_is_cancelled(context: LlamaContext, cancel: threading.Event) -> None:
    context.decode(TOKENS[:8], wanted=False)
    cancel.set()
    assert context.decode(TOKENS[8:], wanted=True) is None
    assert context.length == 8
    cancel.clear()
    assert context.decode(TOKENS[8:], wanted=True) is not None
    assert context.length == 40


def test_closing_twice_is_closing_once(path: Path, cancel: threading.Event) -> None:
    context = LlamaContext(path, 64, threads=1, gpu_layers=0, reference=True, cancel=cancel)
    context.close()
    context.close()
