from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllama.runtime import gpus
from vllama.runtime.errors import BackendUnavailableError
from vllama.runtime.gpus import Gpu, NoGpuError, find_gpus

# A driver of two cards, or of what $FAKE_DRIVER asks for.
_DRIVER = r"""
#include <stdlib.h>
#include <string.h>
static const char *asked(void) { const char *s = getenv("FAKE_DRIVER"); return s ? s : ""; }
int cuInit(unsigned f) { return strcmp(asked(), "broken") == 0 ? 803 : strcmp(asked(), "hidden") == 0 ? 100 : 0; }
int cuDriverGetVersion(int *v) { *v = strcmp(asked(), "old") == 0 ? 12090 : 13000; return 0; }
int cuDeviceGetCount(int *n) { *n = strcmp(asked(), "none") == 0 ? 0 : 2; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, d ? "Second Card" : "First Card", n); return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = (size_t)(d + 8) << 30; return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? (d ? 12 : 8) : (d ? 0 : 6); return 0; }
int cuGetErrorString(int e, const char **s) { *s = "system has unsupported display driver"; return 0; }
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    find_gpus.cache_clear()
    yield
    find_gpus.cache_clear()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the entries of the driver that are called, and answers of our own."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.name == "nt":
        pytest.skip("a library to answer in the driver's place needs a C compiler")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.c").write_text(_DRIVER, "utf-8")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "driver.so", folder / "driver.c"], check=True)
    return folder / "driver.so"


def test_machine_without_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_DRIVER", "libcuda.of.no.machine.so.1")
    with pytest.raises(NoGpuError, match=r"no NVIDIA driver here \(libcuda.of.no.machine.so.1 cannot be"):
        find_gpus()


def test_every_gpu_is_told_with_name_capability_and_memory(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_DRIVER", str(driver))
    assert find_gpus() == (Gpu(0, "First Card", "8.6", 8 << 30), Gpu(1, "Second Card", "12.0", 9 << 30))
    assert find_gpus()[1].device == "cuda:1"


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ("none", NoGpuError, r"the NVIDIA driver shows no GPU; check \$CUDA_VISIBLE_DEVICES"),
        ("hidden", NoGpuError, r"the NVIDIA driver shows no GPU; check \$CUDA_VISIBLE_DEVICES"),
        (
            "old",
            BackendUnavailableError,
            "the NVIDIA driver is for CUDA 12; update it to 580 or newer, or use --device",
        ),
        (
            "broken",
            BackendUnavailableError,
            r"cannot be used \(cuInit: system has unsupported display driver, 803\); check `nvidia-smi`",
        ),
    ],
)
def test_driver_without_usable_gpu_says_why(
    state: str, kind: type[BackendUnavailableError], words: str, driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "_DRIVER", str(driver))
    monkeypatch.setenv("FAKE_DRIVER", state)
    with pytest.raises(BackendUnavailableError, match=words) as error:
        find_gpus()
    assert type(error.value) is kind
