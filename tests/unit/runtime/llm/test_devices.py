from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from vllama.runtime.llm import devices as module
from vllama.runtime.llm.devices import _devices, gpu_memory
from vllama.runtime.machine import GpuMemory, Memory

CARD, INSIDE = GpuMemory("a card", 8, 6), GpuMemory("inside the processor", 16, 14)


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


def test_the_devices_of_llama_cpp_tell_their_memory() -> None:
    assert all(memory.name and 0 < memory.free <= memory.total for _, memory in _devices())
    assert len(_devices()) >= 1  # the CPU, at least
    assert len(gpu_memory()) < len(_devices())  # which is no GPU


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
    monkeypatch.setattr(module, "_devices", lambda: devices)
    monkeypatch.setattr(module, "read_memory", lambda: Memory(32, 9))
    monkeypatch.setattr(sys, "platform", system)
    assert gpu_memory() == found


@pytest.mark.skipif(os.name == "nt", reason="there every library is strict")
def test_the_devices_are_asked_of_the_library_that_knows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_cpp import _ctypes_extensions, _ggml

    load = _ctypes_extensions.load_shared_library
    monkeypatch.setattr(_ggml, "libggml", Strict(_ggml.libggml))
    monkeypatch.setattr(_ctypes_extensions, "load_shared_library", lambda name, folder: Strict(load(name, folder)))
    assert _devices()
