"""ggml's own quantiser, and the numbers that GGUF files carry for their types and mixes."""

from __future__ import annotations

import ctypes
import functools

import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType
from numpy.typing import NDArray

from vllama.runtime.llm.llama_library import load_ggml_base, load_library
from vllama.runtime.llm.quants import GgmlType, row_bytes
from vllama.runtime.types import Float32


def type_number(kind: GgmlType) -> GGMLQuantizationType:
    """What a tensor's type is in a file."""
    return GGMLQuantizationType[kind]


def file_number(quant: str) -> LlamaFileType:
    """What a mix is in a file.

    Args:
        quant: a name of `vllama.runtime.llm.quants.QUANTS`.
    """
    return LlamaFileType["ALL_F32" if quant == "F32" else f"MOSTLY_{quant}"]


def quantise(rows: Float32, kind: GgmlType, target: NDArray[np.uint8]) -> None:
    """Write `rows` as `kind` into `target`; may run in several threads at once.

    Args:
        rows: (n, n_per_row).
        target: (n, row_bytes).
    """
    assert target.shape == (len(rows), row_bytes(kind, rows.shape[1])), (target.shape, rows.shape, kind)
    assert rows.flags.c_contiguous, rows.strides
    assert target.flags.c_contiguous, target.strides
    assert rows.dtype == np.float32, rows.dtype
    number = type_number(kind)
    written = _ggml().ggml_quantize_chunk(number, rows.ctypes.data, target.ctypes.data, 0, *rows.shape, None)
    assert written == target.nbytes, (written, target.nbytes)


@functools.cache
def _ggml() -> ctypes.CDLL:
    """ggml's own library, which quantises without a model file."""
    load_library()  # refuses another version
    library = load_ggml_base()
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library
