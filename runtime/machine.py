"""What this machine has: cores, RAM, and the memory of NVIDIA's GPUs."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SYSTEM = Path("/sys")
_STATUS = Path("/proc/self/status")
_SYSCTL_SECONDS = 5.0
_NVML = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"


@dataclass(frozen=True)
class Memory:
    """RAM in bytes; free: what could be had now, with what the system would give up for it."""

    total: int
    free: int


@dataclass(frozen=True)
class GpuMemory:
    """A GPU's memory in bytes; in_ram: it is a part of the machine's own."""

    name: str
    total: int
    free: int
    in_ram: bool = False


def physical_cores() -> int:
    """Cores that this process may use; two threads of one core count as one, and a container's limit counts.

    Of Apple's processors only the fast cores: work that is shared evenly would wait for the slow ones.
    """
    if sys.platform == "linux":
        return linux_cores(_SYSTEM, os.sched_getaffinity(0))
    fast = read_sysctl("hw.perflevel0.physicalcpu") if sys.platform == "darwin" else ""
    if fast.isdecimal() and int(fast):
        return int(fast)
    import psutil  # slow to load

    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def linux_cores(system: Path, cpus: Iterable[int]) -> int:
    """Cores of a Linux machine. Args: where sysfs is, and the processors that may be used."""
    cores = set()
    for cpu in cpus:
        topology = system / "devices" / "system" / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        cores.add(_read(topology) or str(cpu))
    quota, _, period = _read(system / "fs" / "cgroup" / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        return max(1, min(len(cores), -(-int(quota) // int(period))))
    return len(cores)


def read_sysctl(name: str) -> str:
    """What macOS says of itself under that name; "": nothing."""
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, timeout=_SYSCTL_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "" if done.returncode else done.stdout.decode("utf-8", "replace").strip()


def read_memory() -> Memory:
    """RAM of this machine, or what is left of it for this container."""
    import psutil  # slow to load

    memory = psutil.virtual_memory()
    limit = cgroup_memory(_SYSTEM / "fs" / "cgroup")
    if limit is None:
        return Memory(memory.total, memory.available)
    return Memory(min(memory.total, limit.total), min(memory.available, limit.free))


def peak_bytes() -> int | None:
    """Most memory this process had at once, mapped files included; None where the system does not tell."""
    if sys.platform == "win32":
        import psutil  # slow to load

        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = _read(_STATUS).splitlines()
    kilobytes = next((line.split()[1] for line in lines if line.startswith("VmHWM")), None)
    return int(kilobytes) * 1024 if kilobytes else None


def cgroup_memory(group: Path) -> Memory | None:
    """What a container may have; None where there is no limit. Args: the folder of its control group, version 2."""
    limit, current = _read(group / "memory.max"), _read(group / "memory.current")
    if not (limit.isdigit() and current.isdigit()):
        return None
    counts = dict(line.split() for line in _read(group / "memory.stat").splitlines())
    cached = int(counts.get("inactive_file", 0))  # of files, which the system gives up first
    return Memory(int(limit), max(0, int(limit) - int(current) + cached))


def nvidia_memory(driver: str = _NVML) -> tuple[GpuMemory, ...]:
    """Of every NVIDIA GPU, as the driver tells it without taking any itself; empty where there is no driver.

    Source: NVML API reference, nvmlDeviceGetMemoryInfo. Seen on no GPU so far, only on a library of the same calls.
    """
    try:
        nvml = ctypes.CDLL(driver)
        if nvml.nvmlInit_v2():
            return ()
    except (OSError, AttributeError):
        return ()
    try:
        count = ctypes.c_uint()
        nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        found = (_nvidia_memory(nvml, number) for number in range(count.value))
        return tuple(gpu for gpu in found if gpu is not None)
    finally:
        nvml.nvmlShutdown()


def _nvidia_memory(nvml: ctypes.CDLL, number: int) -> GpuMemory | None:
    device, memory = ctypes.c_void_p(), (ctypes.c_ulonglong * 3)()  # total, free, used
    name = ctypes.create_string_buffer(96)
    failed = (
        nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(device))
        or nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
        or nvml.nvmlDeviceGetName(device, name, ctypes.c_uint(len(name)))
    )
    return None if failed else GpuMemory(name.value.decode("utf-8", "replace"), memory[0], memory[1])


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return ""
