from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vllama.export.llama import open_llama
from vllama.export.to_gguf import to_gguf
from vllama.runtime.bundle import shipped_bundle
from vllama.runtime.errors import BackendError, BackendUnavailableError
from vllama.runtime.llm import llama_context
from vllama.runtime.llm.llama_context import LlamaContext, LlmSettings, _devices, fewer_layers, gpu_memory
from vllama.runtime.machine import GpuMemory, Memory
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
    opened = LlamaContext(path, 64, LlmSettings(1, kv="f32"), cancel)
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
    context = LlamaContext(path, 64, LlmSettings(1, kv="f32"), cancel)
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


def test_a_model_that_cannot_have_a_q8_0_cache_is_told_to_use_another(path: Path, cancel: threading.Event) -> None:
    with pytest.raises(BackendError, match=r"no context of 64 positions: .*q8_0.*; use --kv f16"):
        LlamaContext(path, 64, LlmSettings(1, kv="q8_0"), cancel)


def test_every_way_to_store_a_state_has_settings_of_its_own(path: Path, cancel: threading.Event) -> None:
    settings = set()
    for kv in ("f32", "f16"):
        context = LlamaContext(path, 64, LlmSettings(1, kv=kv), cancel)
        settings.add(context.settings)
        context.close()
    assert len(settings) == 2


def test_another_number_of_rows_at_once_and_repacked_weights_give_the_same_logits(
    path: Path, cancel: threading.Event
) -> None:
    found = []
    for how in (LlmSettings(1), LlmSettings(1, n_ubatch=8), LlmSettings(1, repack=True)):
        context = LlamaContext(path, 64, how, cancel)
        for start in range(0, len(TOKENS), context.n_batch):
            logits = context.decode(TOKENS[start : start + context.n_batch], wanted=True)
        found.append(logits)
        context.close()
    np.testing.assert_allclose(found[1], found[0], atol=2e-2)
    np.testing.assert_allclose(found[2], found[0], atol=2e-2)


def test_the_devices_of_llama_cpp_tell_their_memory() -> None:
    assert all(memory.name and 0 < memory.free <= memory.total for _, memory in _devices())
    assert len(_devices()) >= 1  # the CPU, at least
    assert len(gpu_memory()) < len(_devices())  # which is no GPU


@pytest.mark.skipif(sys.platform != "linux", reason="links as Linux does")
def test_a_library_that_a_build_needs_and_is_not_there_is_named(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("g++")
    if compiler is None:
        pytest.skip("compiles a llama.cpp of its own")
    (tmp_path / "empty.c").touch()
    driver, build = tmp_path / "driver.so", tmp_path / "libllama.so"
    shared = [compiler, "-shared", "-fPIC", "-x", "c", tmp_path / "empty.c", "-x", "none"]
    subprocess.run([*shared, "-Wl,-soname,libno-such-driver.so.1", "-o", driver], check=True)
    subprocess.run([*shared, "-Wl,--no-as-needed", driver, "-o", build], check=True)
    code = f"from vllama.runtime.llm.llama_context import check_model; check_model({str(tmp_path / 'a.gguf')!r})"
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert "libno-such-driver.so.1: cannot open shared object file" in last, done.stderr
    assert "; install what it was built for, such as NVIDIA's driver, or build it again: `pip install --force" in last


CARD, INSIDE = GpuMemory("a card", 8, 6), GpuMemory("inside the processor", 16, 14)


@pytest.mark.parametrize(
    ("devices", "system", "found"),
    [
        ([(0, GpuMemory("CPU", 32, 9))], "linux", ()),
        ([(2, INSIDE), (1, CARD)], "linux", (CARD,)),
        ([(2, INSIDE)], "linux", (GpuMemory(INSIDE.name, 16, 9, in_ram=True),)),
        ([(1, CARD)], "darwin", (GpuMemory(CARD.name, 8, 6, in_ram=True),)),
    ],
)
def test_memory_of_a_gpu_is_its_own_or_what_is_free_of_the_machines(
    devices: list[tuple[int, GpuMemory]], system: str, found: tuple[GpuMemory, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_cpp import llama_cpp as library

    monkeypatch.setattr(library, "llama_supports_gpu_offload", lambda: True)
    monkeypatch.setattr(llama_context, "_devices", lambda: devices)
    monkeypatch.setattr(llama_context, "read_memory", lambda: Memory(32, 9))
    monkeypatch.setattr(sys, "platform", system)
    assert gpu_memory() == found


class FileOf(ctypes.Structure):
    """Dl_info of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


class Strict:
    """A library that finds what is in itself alone, as on Windows."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def __getattr__(self, name: str) -> Any:
        function, found = getattr(self.library, name), FileOf()
        assert ctypes.CDLL(None).dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(found))
        if not Path(os.fsdecode(found.file)).samefile(self.library._name):
            raise AttributeError(f"{name} is in {found.file!r}, not in {self.library._name}")
        return function


@pytest.mark.skipif(os.name == "nt", reason="there every library is strict")
def test_the_devices_are_asked_of_the_library_that_knows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cpp import _ctypes_extensions, _ggml

    load = _ctypes_extensions.load_shared_library
    monkeypatch.setattr(_ggml, "libggml", Strict(_ggml.libggml))
    monkeypatch.setattr(_ctypes_extensions, "load_shared_library", lambda name, folder: Strict(load(name, folder)))
    assert _devices()


@pytest.mark.parametrize("layers", [0, 1])
def test_without_layers_there_a_gpu_gets_no_work(
    layers: int, path: Path, cancel: threading.Event, monkeypatch: pytest.MonkeyPatch
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
    LlamaContext(path, 64, LlmSettings(1, gpu_layers=layers), cancel).close()
    assert made == [(layers > 0, layers > 0)]


@pytest.mark.parametrize(("refused", "fewer"), [(33, 24), (24, 18), (2, 1), (1, 0)])
def test_where_a_gpu_is_too_small_three_quarters_are_tried(refused: int, fewer: int) -> None:
    assert fewer_layers(refused) == fewer


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (pinned,) = (each for each in requires("vllama") or () if each.startswith("llama-cpp-python"))
    assert pinned == f"llama-cpp-python=={llama_context._VERSION}"
    monkeypatch.setattr(llama_context, "version", lambda name: f"{llama_context._VERSION}+cu130")
    assert llama_context._library.__wrapped__() is llama_context._library()
    monkeypatch.setattr(llama_context, "version", lambda name: "0.4.0")
    with pytest.raises(
        BackendUnavailableError, match=r"is 0\.4\.0 and vllama takes 0\.3\.36; install that: `pip install"
    ):
        llama_context._library.__wrapped__()
