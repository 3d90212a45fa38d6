"""What this machine can do at best, for speeds to be told as a share of: products of large matrices, memory read."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..backend import open_backend
from ..machine import read_sysctl

Kind = Literal["fp32", "int8"]
_ROWS, _SHARED, _COLUMNS = 512, 2048, 4096  # of the product: beyond all caches, and its input is a small part of it
_READ_BYTES = 1 << 28
_CPUINFO = Path("/proc/cpuinfo")
_REGISTERED = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"  # where Windows keeps it
_FLOAT, _UINT8, _INT8, _INT32 = 1, 2, 3, 6  # as ONNX numbers its types


@dataclass(frozen=True)
class Limits:
    """Per second: fp32_flops and int8_ops, multiplications and additions of ONNX Runtime's own product of large
    matrices (int8: uint8 by int8); read_bytes, memory read by all threads at once."""

    fp32_flops: float
    int8_ops: float
    read_bytes: float


def processor_name() -> str:
    """The processor's own name, or its family where the system does not tell it."""
    return _own_name() or platform.processor() or platform.machine()


def _own_name() -> str:
    if sys.platform == "darwin":
        return read_sysctl("machdep.cpu.brand_string")
    try:
        if sys.platform == "win32":
            import winreg

            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _REGISTERED) as key:
                return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
        lines = _CPUINFO.read_text("utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def measure_limits(threads: int, seconds: float, work: Path) -> Limits:
    """Measure each for so many seconds, and take the best round: the rest of the machine can only make it worse.

    Args:
        work: a folder for what is measured.

    Raises:
        BackendUnavailableError: there is no ONNX Runtime.
    """
    kinds: tuple[Kind, Kind] = ("fp32", "int8")
    fp32, int8 = (_product_rate(work, kind, threads, seconds) for kind in kinds)
    return Limits(fp32, int8, _read_rate(threads, seconds))


def best_seconds(call: Callable[[], object], seconds: float) -> float:
    """The shortest of several calls, the first of which does not count."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


def _product_rate(folder: Path, kind: Kind, threads: int, seconds: float) -> float:
    path = folder / f"{kind}.onnx"
    path.write_bytes(product_graph(kind, _SHARED, _COLUMNS))
    backend = open_backend(path, threads=threads)
    x = np.ones((_ROWS, _SHARED), np.float32)
    best = best_seconds(lambda: backend.run({"x": x}), seconds)
    backend.close()
    return 2 * _ROWS * _SHARED * _COLUMNS / best


def _read_rate(threads: int, seconds: float) -> float:
    parts = np.array_split(np.ones(_READ_BYTES // 8, np.int64), threads)
    with ThreadPoolExecutor(threads) as pool:  # numpy gives the interpreter's lock back while it sums
        return _READ_BYTES / best_seconds(lambda: list(pool.map(np.add.reduce, parts)), seconds)


def product_graph(kind: Kind, shared: int, columns: int) -> bytes:
    """An ONNX graph y = x @ w of x float32 (n, shared) and ones (shared, columns), in the types of that kind.

    Written field by field: `onnx` is installed for `vllama export` alone.
    """
    exact = kind == "fp32"
    ones = np.ones((shared, columns), np.float32 if exact else np.int8)
    weights = _varints(1, shared, columns) + _varints(2, _FLOAT if exact else _INT8)
    weights += _text(8, "w") + _bytes(9, ones.tobytes())
    to_uint8 = _text(1, "to") + _varints(3, _UINT8) + _varints(20, 2)  # 2: its value is an integer
    nodes = [_node("MatMul", ("x", "w"), "y")]
    if not exact:
        nodes = [_node("Cast", ("x",), "u", _bytes(5, to_uint8)), _node("MatMulInteger", ("u", "w"), "y")]
    graph = b"".join(_bytes(1, node) for node in nodes) + _text(2, "product") + _bytes(5, weights)
    graph += _bytes(11, _value("x", _FLOAT, shared)) + _bytes(12, _value("y", _FLOAT if exact else _INT32, columns))
    return _varints(1, 9) + _bytes(7, graph) + _bytes(8, _varints(2, 17))  # IR 9, opset 17


def _node(kind: str, inputs: tuple[str, ...], output: str, attributes: bytes = b"") -> bytes:
    return b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, kind) + attributes


def _value(name: str, kind: int, columns: int) -> bytes:
    shape = _bytes(1, _text(2, "n")) + _bytes(1, _varints(1, columns))
    return _text(1, name) + _bytes(2, _bytes(1, _varints(1, kind) + _bytes(2, shape)))


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode())


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varints(field: int, *values: int) -> bytes:
    return b"".join(_varint(field << 3) + _varint(value) for value in values)


def _varint(value: int) -> bytes:
    done = bytearray()
    while value > 0x7F:
        done.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*done, value])
