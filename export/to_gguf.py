"""HF LLaMA -> GGUF: each tensor is read, permuted, quantised and written before the next one is read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

from vllama.runtime.llm.quants import GgmlType, LlamaTensor, llama_tensors, row_bytes, stored_type, tensor_bytes
from vllama.runtime.progress import counted
from vllama.runtime.spec import ModelSpec

from .llama import LlamaConfig, hf_name
from .quants import file_number, quantise, type_number
from .vocabulary import Vocabulary

_CHUNK_WEIGHTS = 1 << 22  # float32 copies are made of so much of a tensor at a time, per thread


class LlamaWeights(Protocol):
    """A LLaMA whose tensors are read when they are asked for; `LlamaFolder` is one.

    Attributes:
        config, vocabulary: as there.
    """

    @property
    def config(self) -> LlamaConfig: ...
    @property
    def vocabulary(self) -> Vocabulary: ...
    def tensor(self, name: str) -> torch.Tensor:
        """One tensor by its HF name."""


@dataclass(frozen=True)
class _Tensor:
    """One tensor of the file, and how it is stored."""

    about: LlamaTensor
    type: GgmlType
    widened: bool

    @property
    def name(self) -> str:
        block = "" if self.about.layer is None else f"blk.{self.about.layer}."
        return f"{block}{self.about.name}.weight"

    @property
    def bytes(self) -> int:
        return tensor_bytes(self.type, self.about.shape)


def to_gguf(
    llama: LlamaWeights,
    spec: ModelSpec,
    path: Path,
    quant: str,
    progress: Callable[[int, int], None] | None = None,
    threads: int | None = None,
) -> tuple[str, ...]:
    """Write `llama` for llama.cpp. Memory: one tensor; no other file is written, and none is left after an error.

    Args:
        quant: a name of `vllama.runtime.llm.quants.QUANTS`; matrices are mixed as llama.cpp's own quantiser does it,
            norms stay F32.
        progress: (bytes of tensors written, bytes of all tensors).
        threads: that quantise; None: one for each logical core.

    Returns:
        GGUF names of tensors whose rows do not fit the blocks of their type and that got a wider one.

    Raises:
        OSError: the file cannot be written; `staging.writing` says what to do then.
        BackendUnavailableError: ggml's quantiser cannot be loaded.
    """
    plan = _planned(llama.config, quant)
    writer = gguf.GGUFWriter(path, "llama")
    try:
        _add_metadata(writer, llama, spec, quant)
        for tensor in plan:
            shape, number = tensor.about.shape, type_number(tensor.type)
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), tensor.bytes, raw_dtype=number)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with ThreadPoolExecutor(threads or os.cpu_count(), "quantise") as pool:
            written = counted(progress, _total(plan))
            for tensor in plan:
                writer.write_tensor_data(_encoded(llama, tensor, pool))
                written(tensor.bytes)
        writer.close()
    except BaseException:
        _discard(writer, path)
        raise
    return tuple(tensor.name for tensor in plan if tensor.widened)


def gguf_bytes(llama: LlamaWeights, quant: str) -> int:
    """Bytes of the tensors that `to_gguf` writes."""
    return _total(_planned(llama.config, quant))


def permuted(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of a Q or K projection in llama.cpp's rotary layout: pairs side by side, not in halves."""
    rows, columns = weight.shape
    return weight.view(num_heads, 2, rows // num_heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _planned(config: LlamaConfig, quant: str) -> list[_Tensor]:
    return [_Tensor(tensor, *stored_type(quant, tensor, config)) for tensor in llama_tensors(config)]


def _encoded(llama: LlamaWeights, tensor: _Tensor, pool: ThreadPoolExecutor) -> NDArray[np.uint8]:
    about = tensor.about
    weight, row = llama.tensor(hf_name(about)), about.shape[-1]
    if about.name == "attn_q":
        weight = permuted(weight, llama.config.num_heads)
    elif about.name == "attn_k":
        weight = permuted(weight, llama.config.num_kv_heads)
    matrix = weight.reshape(-1, row)
    target = np.empty((len(matrix), row_bytes(tensor.type, row)), np.uint8)

    def encode(rows: slice) -> None:
        quantise(matrix[rows].to(torch.float32).contiguous().numpy(), tensor.type, target[rows])

    for _ in pool.map(encode, _chunks(row, len(matrix))):
        pass
    return target


def _chunks(n_per_row: int, rows: int) -> Iterator[slice]:
    step = max(1, _CHUNK_WEIGHTS // n_per_row)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _total(plan: list[_Tensor]) -> int:
    return sum(tensor.bytes for tensor in plan)


def _discard(writer: gguf.GGUFWriter, path: Path) -> None:
    with contextlib.suppress(OSError):  # closing tries once more to write what could not be written
        writer.close()
    path.unlink(missing_ok=True)


def _add_metadata(writer: gguf.GGUFWriter, llama: LlamaWeights, spec: ModelSpec, quant: str) -> None:
    config, vocabulary = llama.config, llama.vocabulary
    writer.add_type("model")
    writer.add_name(spec.name)
    writer.add_license(spec.license)
    writer.add_source_url(spec.source)
    writer.add_file_type(file_number(quant))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.n_ctx_train)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(list(vocabulary.pieces))
    writer.add_token_scores(list(vocabulary.scores))
    writer.add_token_types(list(vocabulary.types))
    writer.add_bos_token_id(vocabulary.bos)
    writer.add_eos_token_id(vocabulary.eos)
    writer.add_unk_token_id(vocabulary.unk)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
