from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vllama.runtime.bundle import shipped_bundle
from vllama.runtime.errors import BackendError
from vllama.runtime.llm import llama_library
from vllama.runtime.llm.llama_context import LlamaContext, LlmSettings, fewer_layers

TOKENS = np.arange(300, 340, dtype=np.int32)


@pytest.fixture
def cancel() -> threading.Event:
    return threading.Event()


@pytest.fixture
def context(tiny_gguf: Path, cancel: threading.Event) -> Iterator[LlamaContext]:
    opened = LlamaContext(tiny_gguf, 64, LlmSettings(1, kv="f32"), cancel)
    yield opened
    opened.close()


def test_rows_are_appended_and_logits_only_made_where_wanted(context: LlamaContext) -> None:
    assert context.length == 0
    assert context.decode(TOKENS, wanted=False) is None
    assert context.length == 40
    logits = context.decode(TOKENS[:1], wanted=True)
    assert logits is not None
    assert (logits.shape, logits.dtype, context.length) == ((context.n_vocab,), np.dtype(np.float32), 41)


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


@pytest.mark.parametrize(
    ("logged", "said"),
    [
        ("ggml_vulkan: Device memory allocation failed", r"memory does not hold 1 layers: .* --gpu-layers 0$"),
        ("a lost device", r"^llama_decode of 64 positions returned -2: a lost device; report it$"),
    ],
)
def test_gpu_that_fails_at_the_first_batch_gives_back_what_it_gave(
    logged: str, said: str, tiny_gguf: Path, cancel: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, freed = llama_library.load_library(), list[str]()

    def decode(context: int, batch: object) -> int:
        llama_library._log.append(logged)
        return -2

    def freeing(name: str) -> Callable[[int], None]:
        free = getattr(library, name)

        def told(held: int) -> None:
            freed.append(name)
            free(held)

        return told

    monkeypatch.setattr(library, "llama_supports_gpu_offload", lambda: True)
    monkeypatch.setattr(library, "llama_decode", decode)
    for name in ("llama_free", "llama_model_free"):
        monkeypatch.setattr(library, name, freeing(name))
    with pytest.raises(BackendError, match=said):
        LlamaContext(tiny_gguf, 64, LlmSettings(1, gpu_layers=1), cancel)
    assert freed == ["llama_free", "llama_model_free"]


def test_one_that_nobody_closed_gives_its_memory_back(
    tiny_gguf: Path, cancel: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, freed = llama_library.load_library(), list[str]()

    def freeing(name: str) -> Callable[[int], None]:
        free = getattr(library, name)
        return lambda held: (freed.append(name), free(held))[1]  # type: ignore[func-returns-value]

    for name in ("llama_free", "llama_model_free"):
        monkeypatch.setattr(library, name, freeing(name))
    context = LlamaContext(tiny_gguf, 64, LlmSettings(1, kv="f32"), cancel)
    context.decode(TOKENS[:8], wanted=False)
    del context
    gc.collect()
    assert freed == ["llama_free", "llama_model_free"]


def test_closing_twice_is_closing_once(tiny_gguf: Path, cancel: threading.Event) -> None:
    context = LlamaContext(tiny_gguf, 64, LlmSettings(1, kv="f32"), cancel)
    context.close()
    context.close()


def test_a_q8_0_cache_takes_17_of_32_bytes(cancel: threading.Event) -> None:
    size = {}
    for kv in ("f16", "q8_0"):
        context = LlamaContext(next(shipped_bundle().glob("*.gguf")), 256, LlmSettings(1, kv=kv), cancel)
        context.decode(TOKENS, wanted=False)
        size[kv] = context.state().nbytes
        context.close()
    assert size["q8_0"] / size["f16"] == pytest.approx(17 / 32, rel=0.01)


def test_a_model_that_cannot_have_a_q8_0_cache_is_told_to_use_another(tiny_gguf: Path, cancel: threading.Event) -> None:
    with pytest.raises(BackendError, match=r"no context of 64 positions: .*q8_0.*; use --kv f16"):
        LlamaContext(tiny_gguf, 64, LlmSettings(1, kv="q8_0"), cancel)


def test_every_way_to_store_a_state_has_settings_of_its_own(tiny_gguf: Path, cancel: threading.Event) -> None:
    settings = set()
    for kv in ("f32", "f16"):
        context = LlamaContext(tiny_gguf, 64, LlmSettings(1, kv=kv), cancel)
        settings.add(context.settings)
        context.close()
    assert len(settings) == 2


def test_another_number_of_rows_at_once_and_repacked_weights_give_the_same_logits(
    tiny_gguf: Path, cancel: threading.Event
) -> None:
    found = []
    for how in (LlmSettings(1), LlmSettings(1, n_ubatch=8), LlmSettings(1, repack=True)):
        context = LlamaContext(tiny_gguf, 64, how, cancel)
        for start in range(0, len(TOKENS), context.n_batch):
            logits = context.decode(TOKENS[start : start + context.n_batch], wanted=True)
        assert logits is not None
        found.append(logits)
        context.close()
    np.testing.assert_allclose(found[1], found[0], atol=2e-2)
    np.testing.assert_allclose(found[2], found[0], atol=2e-2)


@pytest.mark.parametrize("layers", [0, 1])
def test_without_layers_there_a_gpu_gets_no_work(
    layers: int, tiny_gguf: Path, cancel: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp offloads the KV cache and the products of a long prompt unless it is told not to."""
    from llama_cpp import llama_cpp as library

    made: list[tuple[bool, bool]] = []
    create = library.llama_init_from_model

    def seen(model: int, params: Any) -> Any:
        made.append((params.offload_kqv, params.op_offload))
        return create(model, params)

    monkeypatch.setattr(library, "llama_supports_gpu_offload", lambda: True)  # without one the layers stay here
    monkeypatch.setattr(library, "llama_init_from_model", seen)
    LlamaContext(tiny_gguf, 64, LlmSettings(1, gpu_layers=layers), cancel).close()
    assert made == [(layers > 0, layers > 0)]


@pytest.mark.parametrize(("refused", "fewer"), [(33, 24), (24, 18), (2, 1), (1, 0)])
def test_where_a_gpu_is_too_small_three_quarters_are_tried(refused: int, fewer: int) -> None:
    assert fewer_layers(refused) == fewer
