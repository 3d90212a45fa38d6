"""Which GGML type a tensor gets in which quantisation, and ggml's own quantiser."""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from numpy.typing import NDArray

from vllama.runtime.errors import BackendUnavailableError
from vllama.runtime.types import Float32

if TYPE_CHECKING:
    from .llama import LlamaConfig  # torch, which the names of `QUANTS` are known without

_Type = GGMLQuantizationType
_File = LlamaFileType


@dataclass(frozen=True)
class Quant:
    """One name of `QUANTS`: the type of most tensors, and the number GGUF files carry for the mix."""

    main: GGMLQuantizationType
    file_type: LlamaFileType


QUANTS = {
    "F32": Quant(_Type.F32, _File.ALL_F32),
    "F16": Quant(_Type.F16, _File.MOSTLY_F16),
    "BF16": Quant(_Type.BF16, _File.MOSTLY_BF16),
    "Q8_0": Quant(_Type.Q8_0, _File.MOSTLY_Q8_0),
    "Q6_K": Quant(_Type.Q6_K, _File.MOSTLY_Q6_K),
    "Q5_K_M": Quant(_Type.Q5_K, _File.MOSTLY_Q5_K_M),
    "Q5_K_S": Quant(_Type.Q5_K, _File.MOSTLY_Q5_K_S),
    "Q5_1": Quant(_Type.Q5_1, _File.MOSTLY_Q5_1),
    "Q5_0": Quant(_Type.Q5_0, _File.MOSTLY_Q5_0),
    "Q4_K_M": Quant(_Type.Q4_K, _File.MOSTLY_Q4_K_M),
    "Q4_K_S": Quant(_Type.Q4_K, _File.MOSTLY_Q4_K_S),
    "Q4_1": Quant(_Type.Q4_1, _File.MOSTLY_Q4_1),
    "Q4_0": Quant(_Type.Q4_0, _File.MOSTLY_Q4_0),
    "IQ4_NL": Quant(_Type.IQ4_NL, _File.MOSTLY_IQ4_NL),
    "IQ4_XS": Quant(_Type.IQ4_XS, _File.MOSTLY_IQ4_XS),
    "Q3_K_L": Quant(_Type.Q3_K, _File.MOSTLY_Q3_K_L),
    "Q3_K_M": Quant(_Type.Q3_K, _File.MOSTLY_Q3_K_M),
    "Q3_K_S": Quant(_Type.Q3_K, _File.MOSTLY_Q3_K_S),
    "Q2_K": Quant(_Type.Q2_K, _File.MOSTLY_Q2_K),
}

# What a row takes that is no multiple of the 256 weights of a super-block: blocks of 32.
_NARROW = {
    _Type.Q2_K: _Type.Q4_0,
    _Type.Q3_K: _Type.Q4_0,
    _Type.IQ4_XS: _Type.IQ4_NL,
    _Type.Q4_K: _Type.Q5_0,
    _Type.Q5_K: _Type.Q5_1,
    _Type.Q6_K: _Type.Q8_0,
}


def tensor_type(quant: str, kind: str, layer: int, config: LlamaConfig) -> GGMLQuantizationType:
    """The type of a matrix before its row length is looked at, as llama.cpp's quantiser mixes them.

    Args:
        quant: a name of `QUANTS`.
        kind: its GGUF name without block and ".weight", for example "attn_v".
        layer: its block, 0 outside of blocks.
    """
    main = QUANTS[quant].main
    if main in (_Type.F32, _Type.F16, _Type.BF16):
        return main
    if kind == "output":
        return _Type.Q8_0 if main is _Type.Q8_0 else _Type.Q6_K
    if kind == "attn_v":
        return _attention_value(quant, layer, config) or main
    if kind == "ffn_down":
        return _ffn_down(quant, layer, config.num_layers) or main
    if kind == "attn_output":
        return {"Q2_K": _Type.Q3_K, "Q3_K_M": _Type.Q4_K, "Q3_K_L": _Type.Q5_K}.get(quant, main)
    return main


def fitted(wanted: GGMLQuantizationType, n_per_row: int) -> GGMLQuantizationType:
    """`wanted`, or the next wider type whose blocks divide a row."""
    if n_per_row % block_size(wanted):
        wanted = _NARROW.get(wanted, wanted)
    return _Type.F16 if n_per_row % block_size(wanted) else wanted


def block_size(kind: GGMLQuantizationType) -> int:
    """Weights per block."""
    return GGML_QUANT_SIZES[kind][0]


def row_bytes(kind: GGMLQuantizationType, n_per_row: int) -> int:
    """Bytes of a row."""
    weights, size = GGML_QUANT_SIZES[kind]
    return n_per_row // weights * size


def quantise(rows: Float32, kind: GGMLQuantizationType, target: NDArray[np.uint8]) -> None:
    """Write `rows` as `kind` into `target`; may run in several threads at once.

    Args:
        rows: (n, n_per_row).
        target: (n, row_bytes).
    """
    assert target.shape == (len(rows), row_bytes(kind, rows.shape[1])), (target.shape, rows.shape, kind)
    assert rows.flags.c_contiguous, rows.strides
    assert target.flags.c_contiguous, target.strides
    assert rows.dtype == np.float32, rows.dtype
    written = _ggml().ggml_quantize_chunk(kind, rows.ctypes.data, target.ctypes.data, 0, *rows.shape, None)
    assert written == target.nbytes, (written, target.nbytes)


def _more_bits(layer: int, num_layers: int) -> bool:
    """The layers where errors cost most: the first and the last eighth, and every third between."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def _attention_value(quant: str, layer: int, config: LlamaConfig) -> GGMLQuantizationType | None:
    shared = config.num_heads // config.num_kv_heads >= 4  # then it is small beside what it decides
    if quant in ("Q4_K_M", "Q5_K_M"):
        return _Type.Q6_K if _more_bits(layer, config.num_layers) else None
    if quant == "Q4_K_S":
        return _Type.Q5_K if layer < 4 else None
    if quant == "Q3_K_M":
        return _Type.Q5_K if layer < 2 else _Type.Q4_K
    if quant == "Q2_K":
        return _Type.Q4_K if shared else _Type.Q3_K
    if quant == "Q3_K_L" or (shared and quant in ("IQ4_NL", "IQ4_XS")):
        return _Type.Q5_K
    return None


def _ffn_down(quant: str, layer: int, num_layers: int) -> GGMLQuantizationType | None:
    if quant in ("Q4_K_M", "Q5_K_M"):
        return _Type.Q6_K if _more_bits(layer, num_layers) else None
    if quant in ("Q4_K_S", "IQ4_NL", "IQ4_XS"):
        return _Type.Q5_K if layer < num_layers // 8 else None
    if quant == "Q3_K_M":
        return _Type.Q5_K if layer < num_layers // 16 else _Type.Q4_K
    return {"Q3_K_L": _Type.Q5_K, "Q2_K": _Type.Q3_K}.get(quant)


@functools.cache
def _ggml() -> ctypes.CDLL:
    """libggml-base of the installed llama-cpp-python, which quantises without a model file."""
    package = find_spec("llama_cpp")
    name = {"win32": "ggml-base.dll", "darwin": "libggml-base.dylib"}.get(sys.platform, "libggml-base.so")
    if package is None or package.origin is None:
        raise BackendUnavailableError("llama-cpp-python is not installed; run `pip install llama-cpp-python==0.3.36`")
    path = Path(package.origin).parent / "lib" / name
    try:
        library = ctypes.CDLL(str(path))
        function = library.ggml_quantize_chunk
    except (OSError, AttributeError) as error:
        raise BackendUnavailableError(f"{path}: {error}; install llama-cpp-python==0.3.36 again") from error
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    function.restype = ctypes.c_size_t
    return library
