"""The devices of llama.cpp: which GPUs it would use, and what of their memory is free."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import replace

from ..errors import BackendUnavailableError
from ..machine import GpuMemory, read_memory
from .llama_library import load_ggml_base, load_library

_GPU, _INTEGRATED = 1, 2  # ggml_backend_dev_type


def gpu_memory() -> tuple[GpuMemory, ...]:
    """Of every GPU that llama.cpp would use; empty where it was built for the CPU alone, or cannot be loaded.

    It takes a little of a GPU for itself before it tells.
    """
    try:
        lib = load_library()
    except BackendUnavailableError:
        return ()
    if not lib.llama_supports_gpu_offload():
        return ()
    found = _devices()
    own = tuple(gpu for kind, gpu in found if kind == _GPU)
    if own and sys.platform != "darwin":
        return own
    # llama.cpp takes a GPU that shares the memory of the CPU only where there is no other. What such a one says to be
    # free may be in use.
    shared, free = own or tuple(gpu for kind, gpu in found if kind == _INTEGRATED), read_memory().free
    return tuple(replace(gpu, free=min(gpu.free, free), in_ram=True) for gpu in shared)


def _devices() -> list[tuple[int, GpuMemory]]:
    """Every device that ggml knows, the CPU included: its kind, and what it is."""
    from llama_cpp._ggml import libggml

    base = load_ggml_base()
    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    base.ggml_backend_dev_description.restype = ctypes.c_char_p
    devices: list[tuple[int, GpuMemory]] = []
    for number in range(libggml.ggml_backend_dev_count()):
        device = ctypes.c_void_p(libggml.ggml_backend_dev_get(ctypes.c_size_t(number)))
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        name = base.ggml_backend_dev_description(device).decode("utf-8", "replace")
        devices.append((int(base.ggml_backend_dev_type(device)), GpuMemory(name, total.value, free.value)))
    return devices
