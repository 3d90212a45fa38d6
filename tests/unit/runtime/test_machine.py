from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from vllama.runtime import machine
from vllama.runtime.machine import (
    GpuMemory,
    Memory,
    cgroup_memory,
    linux_cores,
    nvidia_memory,
    peak_bytes,
    physical_cores,
    read_memory,
    read_sysctl,
)

# The calls of NVML that are used, with two GPUs; the second cannot be asked.
DRIVER = """
#include <string.h>
static unsigned long long memory[3] = {8000000000ULL, 6500000000ULL, 1500000000ULL};
int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) { *device = &memory; return index ? 6 : 0; }
int nvmlDeviceGetMemoryInfo(void *device, void *info) { memcpy(info, device, sizeof memory); return 0; }
int nvmlDeviceGetName(void *device, char *name, unsigned length) { strncpy(name, "RTX 4060", length); return 0; }
"""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Four cores of two threads each; 0 and 4 are one core."""
    for cpu in range(8):
        siblings = f"{cpu % 4},{cpu % 4 + 4}\n"
        write(tmp_path / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
    return tmp_path


def test_threads_of_one_core_count_as_one(system: Path) -> None:
    assert linux_cores(system, range(8)) == 4


def test_only_processors_that_may_be_used_count(system: Path) -> None:
    assert linux_cores(system, [0, 4]) == 1
    assert linux_cores(system, [0, 1, 2]) == 3


@pytest.mark.parametrize(("limit", "cores"), [("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1)])
def test_the_limit_of_a_container_counts(system: Path, limit: str, cores: int) -> None:
    write(system / "fs/cgroup/cpu.max", f"{limit}\n")
    assert linux_cores(system, range(8)) == cores


def test_no_limit_is_none(system: Path) -> None:
    write(system / "fs/cgroup/cpu.max", "max 100000\n")
    assert linux_cores(system, range(8)) == 4


def test_where_the_system_does_not_tell_every_processor_is_a_core(tmp_path: Path) -> None:
    assert linux_cores(tmp_path, [0, 1, 5]) == 3


def test_this_machine_has_no_more_cores_than_processors() -> None:
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)


def test_memory_is_that_of_this_machine() -> None:
    memory = read_memory()
    assert 0 < memory.free <= memory.total


def test_of_a_container_what_is_used_is_not_free(tmp_path: Path) -> None:
    write(tmp_path / "memory.max", "8000\n")
    write(tmp_path / "memory.current", "6000\n")
    assert cgroup_memory(tmp_path) == Memory(8000, 2000)
    write(tmp_path / "memory.stat", "anon 4500\ninactive_file 1500\nactive_file 0\n")
    assert cgroup_memory(tmp_path) == Memory(8000, 3500)


def test_no_limit_of_memory_is_none(tmp_path: Path) -> None:
    assert cgroup_memory(tmp_path) is None
    write(tmp_path / "memory.max", "max\n")
    write(tmp_path / "memory.current", "6000\n")
    assert cgroup_memory(tmp_path) is None


@pytest.mark.parametrize(("code", "found"), [(0, (GpuMemory("RTX 4060", 8_000_000_000, 6_500_000_000),)), (9, ())])
def test_gpus_are_asked_of_the_driver_and_those_that_do_not_answer_are_left_out(
    tmp_path: Path, code: int, found: tuple[GpuMemory, ...]
) -> None:
    compiler = shutil.which("cc") or shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("compiles a driver of its own for Linux")
    write(tmp_path / "driver.c", DRIVER)
    library = tmp_path / f"driver{code}.so"
    command = [
        compiler,
        "-shared",
        "-fPIC",
        f"-DINIT={code}",
        "-x",
        "c",
        str(tmp_path / "driver.c"),
        "-o",
        str(library),
    ]
    subprocess.run(command, check=True)
    assert nvidia_memory(str(library)) == found


def test_without_a_driver_there_is_no_gpu() -> None:
    assert nvidia_memory("libthere-is-no-such-driver.so.1") == ()


def test_a_library_that_is_no_driver_is_none() -> None:
    import llama_cpp

    library = next((Path(llama_cpp.__file__).parent / "lib").glob("*ggml-base*"))
    assert nvidia_memory(str(library)) == ()


@pytest.mark.skipif(os.name == "nt", reason="a program is a script with a first line")
def test_of_apples_processors_the_fast_cores_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sysctl"
    program.write_text('#!/bin/sh\n[ "$1 $2" = "-n hw.perflevel0.physicalcpu" ] && echo 6\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (read_sysctl("hw.perflevel0.physicalcpu"), read_sysctl("hw.other")) == ("6", "")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert physical_cores() == 6
    program.unlink()
    assert read_sysctl("hw.perflevel0.physicalcpu") == ""


def test_peak_of_memory_is_asked_of_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=7))
    monkeypatch.setattr(machine, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(psutil, "Process", lambda: memory)
    assert peak_bytes() == 7
