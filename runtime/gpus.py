"""The NVIDIA GPUs of this machine, as the driver tells: what a library was compiled for says nothing of them."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache

from .errors import BackendUnavailableError

_DRIVER = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_LEAST_CUDA = 13000  # as the driver writes 13.0: what every library of CUDA here is built for
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NAME_BYTES = 256


class NoGpuError(BackendUnavailableError):
    """This machine has no NVIDIA GPU, or none that it shows; nothing is broken."""


@dataclass(frozen=True)
class Gpu:
    """One GPU: its number under $CUDA_VISIBLE_DEVICES, its compute capability as "8.9", its memory in bytes."""

    index: int
    name: str
    capability: str
    bytes: int

    @property
    def device(self) -> str:
        """What `--device` calls it."""
        return f"cuda:{self.index}"


@cache
def find_gpus() -> tuple[Gpu, ...]:
    """Every GPU there is, at least one.

    Raises:
        NoGpuError: no driver, or it finds no GPU.
        BackendUnavailableError: the driver is broken, or too old.
    """
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise NoGpuError(
            f"there is no NVIDIA driver here ({_DRIVER} cannot be loaded); install it, or use --device cpu"
        ) from error
    count, version = ctypes.c_int(), ctypes.c_int()
    code = driver.cuInit(0)
    if code != _NO_DEVICE:
        _check(driver, "cuInit", code)
        _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    if count.value == 0:
        raise NoGpuError("the NVIDIA driver shows no GPU; check $CUDA_VISIBLE_DEVICES, or use --device cpu")
    _call(driver, "cuDriverGetVersion", ctypes.byref(version))
    if version.value < _LEAST_CUDA:
        raise BackendUnavailableError(
            f"the NVIDIA driver is for CUDA {version.value // 1000}; update it to 580 or newer, or use --device cpu"
        )
    return tuple(_gpu(driver, index) for index in range(count.value))


def _gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    device, size = ctypes.c_int(), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _call(driver, "cuDeviceGet", ctypes.byref(device), index)
    _call(driver, "cuDeviceGetName", name, _NAME_BYTES, device)
    _call(driver, "cuDeviceTotalMem_v2", ctypes.byref(size), device)
    for value, attribute in ((major, _MAJOR), (minor, _MINOR)):
        _call(driver, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    return Gpu(index, name.value.decode(errors="replace"), f"{major.value}.{minor.value}", size.value)


def _call(driver: ctypes.CDLL, function: str, *arguments: object) -> None:
    _check(driver, function, getattr(driver, function)(*arguments))


def _check(driver: ctypes.CDLL, function: str, code: int) -> None:
    if code:
        reason = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(reason))
        text = reason.value.decode() if reason.value else "unknown"
        raise BackendUnavailableError(
            f"the NVIDIA driver cannot be used ({function}: {text}, {code}); check `nvidia-smi`, or use --device cpu"
        )
