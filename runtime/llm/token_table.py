"""What tokens go into the language model as: rows of its token table, to stand beside media in one batch."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FileError
from ..types import Float32
from .llama_library import load_ggml_base
from .llm_file import find_token_table

_F32 = 0


class _TypeTraits(ctypes.Structure):
    """ggml_type_traits of ggml.h, as far as it is needed."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("block_size", ctypes.c_int64),
        ("block_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    ]


class TokenTable:
    """The table of a GGUF file; rows are made by the function with which llama.cpp looks them up itself.

    Args:
        path: the GGUF file.
        n_vocab, hidden_size: rows and columns.

    Raises:
        FileError: the file has no such table.
    """

    def __init__(self, path: Path, n_vocab: int, hidden_size: int) -> None:
        where = find_token_table(path)
        traits = _traits(where.kind)
        row_bytes = hidden_size // traits.block_size * traits.type_size
        if row_bytes * n_vocab > where.size or not (where.kind == _F32 or traits.to_float):
            raise FileError(f"{path}: its token table is not {n_vocab} rows of {hidden_size}; export the model again")
        self._path, self._offset = path, where.offset
        self._shape, self._hidden_size = (n_vocab, row_bytes), hidden_size
        self._to_float = traits.to_float if where.kind != _F32 else None

    def embeds(self, ids: NDArray[Any]) -> Float32:
        """(n, hidden_size) of tokens in [0, n_vocab).

        Raises:
            FileError: the file is gone.
        """
        try:
            table = np.memmap(self._path, np.uint8, "r", self._offset, self._shape)  # closed again with its last row
        except (OSError, ValueError) as error:
            raise FileError(f"{self._path}: cannot be read any more ({error}); open the model again") from error
        rows = np.ascontiguousarray(table[ids])
        if self._to_float is None:
            return rows.view(np.float32)
        embeds = np.empty((len(ids), self._hidden_size), np.float32)
        self._to_float(rows.ctypes.data, embeds.ctypes.data, embeds.size)
        return embeds


@functools.cache
def _traits(kind: int) -> Any:
    base = load_ggml_base()
    base.ggml_get_type_traits.restype = ctypes.POINTER(_TypeTraits)
    return base.ggml_get_type_traits(kind).contents
