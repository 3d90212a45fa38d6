"""Which GGML type a tensor of a LLaMA gets in which quantisation, and what it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..errors import SpecError
from .llm_file import TOKEN_TABLE, LlmFacts

GgmlType = Literal[
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K",
    "Q2_K",
]  # fmt: skip
# Weights in a block, and its bytes. Source: ggml, ggml-common.h.
BLOCKS: dict[GgmlType, tuple[int, int]] = {
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q8_0": (32, 34), "Q6_K": (256, 210), "Q5_K": (256, 176),
    "Q5_1": (32, 24), "Q5_0": (32, 22), "Q4_K": (256, 144), "Q4_1": (32, 20), "Q4_0": (32, 18), "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136), "Q3_K": (256, 110), "Q2_K": (256, 84),
}  # fmt: skip
# The type of most tensors of a quantisation.
QUANTS: dict[str, GgmlType] = {
    "F32": "F32", "F16": "F16", "BF16": "BF16", "Q8_0": "Q8_0", "Q6_K": "Q6_K", "Q5_K_M": "Q5_K", "Q5_K_S": "Q5_K",
    "Q5_1": "Q5_1", "Q5_0": "Q5_0", "Q4_K_M": "Q4_K", "Q4_K_S": "Q4_K", "Q4_1": "Q4_1", "Q4_0": "Q4_0",
    "IQ4_NL": "IQ4_NL", "IQ4_XS": "IQ4_XS", "Q3_K_L": "Q3_K", "Q3_K_M": "Q3_K", "Q3_K_S": "Q3_K", "Q2_K": "Q2_K",
}  # fmt: skip
# What a row takes that is not a multiple of the 256 weights of a super-block: blocks of 32.
_NARROW: dict[GgmlType, GgmlType] = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "IQ4_XS": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
}  # fmt: skip
_ALIGNMENT = 32  # of a tensor in a GGUF file


@dataclass(frozen=True)
class LlamaDimensions:
    """What the tensors of a LLaMA follow from."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int


@dataclass(frozen=True)
class LlamaTensor:
    """One tensor by its GGUF name without `.weight`; layer: its block, None outside of blocks. shape: (rows, row)."""

    name: str
    layer: int | None
    shape: tuple[int, ...]


def check_quant(name: str) -> str:
    """The name, if it is one of `QUANTS`.

    Raises:
        SpecError: it is not.
    """
    if name not in QUANTS:
        raise SpecError(f"quantization {name!r} is not known; use one of {', '.join(QUANTS)}")
    return name


def llama_tensors(about: LlamaDimensions) -> Iterator[LlamaTensor]:
    """All of them, in the order of the computation."""
    hidden, inner = about.hidden_size, about.intermediate_size
    kv = hidden // about.num_heads * about.num_kv_heads
    yield LlamaTensor("token_embd", None, (about.vocab_size, hidden))
    for layer in range(about.num_layers):
        for name, shape in (
            ("attn_norm", (hidden,)),
            ("attn_q", (hidden, hidden)),
            ("attn_k", (kv, hidden)),
            ("attn_v", (kv, hidden)),
            ("attn_output", (hidden, hidden)),
            ("ffn_norm", (hidden,)),
            ("ffn_gate", (inner, hidden)),
            ("ffn_up", (inner, hidden)),
            ("ffn_down", (hidden, inner)),
        ):
            yield LlamaTensor(name, layer, shape)
    yield LlamaTensor("output_norm", None, (hidden,))
    yield LlamaTensor("output", None, (about.vocab_size, hidden))


def stored_type(quant: str, tensor: LlamaTensor, about: LlamaDimensions) -> tuple[GgmlType, bool]:
    """The type of a tensor, mixed as llama.cpp's quantiser does it, and whether it is wider for its rows' sake.

    Args:
        quant: a name of `QUANTS`.
    """
    if len(tensor.shape) == 1:
        return "F32", False
    wanted = tensor_type(quant, tensor.name, tensor.layer or 0, about)
    row = tensor.shape[-1]
    stored = _NARROW.get(wanted, wanted) if row % BLOCKS[wanted][0] else wanted
    stored = "F16" if row % BLOCKS[stored][0] else stored
    return stored, stored != wanted


def row_bytes(kind: GgmlType, n_per_row: int) -> int:
    """Bytes of a row."""
    weights, size = BLOCKS[kind]
    return n_per_row // weights * size


def tensor_bytes(kind: GgmlType, shape: tuple[int, ...]) -> int:
    """Bytes of a matrix, or of one row."""
    return (shape[0] if len(shape) == 2 else 1) * row_bytes(kind, shape[-1])


def quantised_facts(about: LlamaDimensions, quant: str) -> LlmFacts:
    """What `read_llm_facts` says of the file that an export will write.

    Args:
        quant: a name of `QUANTS`.
    """
    blocks, others, largest = [0] * about.num_layers, {}, 0
    for tensor in llama_tensors(about):
        size = tensor_bytes(stored_type(quant, tensor, about)[0], tensor.shape)
        size = -(-size // _ALIGNMENT) * _ALIGNMENT
        if tensor.layer is None:
            others[f"{tensor.name}.weight"] = size
        else:
            blocks[tensor.layer] += size
        if f"{tensor.name}.weight" != TOKEN_TABLE:
            largest = max(largest, size)
    return LlmFacts(
        n_vocab=about.vocab_size,
        hidden_size=about.hidden_size,
        num_heads=about.num_heads,
        num_kv_heads=about.num_kv_heads,
        head_size=about.hidden_size // about.num_heads,
        blocks=tuple(blocks),
        embedding=others[TOKEN_TABLE],
        output=others["output_norm.weight"] + others["output.weight"],
        largest=largest,
    )


def tensor_type(quant: str, kind: str, layer: int, about: LlamaDimensions) -> GgmlType:
    """The type of a matrix before its row length is looked at, as llama.cpp's quantiser mixes them.

    Args:
        quant: a name of `QUANTS`.
        kind: its GGUF name without block and ".weight", for example "attn_v".
        layer: its block, 0 outside of blocks.
    """
    main = QUANTS[quant]
    if main in ("F32", "F16", "BF16"):
        return main
    if kind == "output":
        return "Q8_0" if main == "Q8_0" else "Q6_K"
    if kind == "attn_v":
        return _attention_value(quant, layer, about) or main
    if kind == "ffn_down":
        return _ffn_down(quant, layer, about.num_layers) or main
    if kind == "attn_output":
        wider: dict[str, GgmlType] = {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}
        return wider.get(quant, main)
    return main


def _more_bits(layer: int, num_layers: int) -> bool:
    """The layers where errors cost most: the first and the last eighth, and every third between."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def _attention_value(quant: str, layer: int, about: LlamaDimensions) -> GgmlType | None:
    shared = about.num_heads // about.num_kv_heads >= 4  # then it is small beside what it decides
    if quant in ("Q4_K_M", "Q5_K_M"):
        return "Q6_K" if _more_bits(layer, about.num_layers) else None
    if quant == "Q4_K_S":
        return "Q5_K" if layer < 4 else None
    if quant == "Q3_K_M":
        return "Q5_K" if layer < 2 else "Q4_K"
    if quant == "Q2_K":
        return "Q4_K" if shared else "Q3_K"
    if quant == "Q3_K_L" or (shared and quant in ("IQ4_NL", "IQ4_XS")):
        return "Q5_K"
    return None


def _ffn_down(quant: str, layer: int, num_layers: int) -> GgmlType | None:
    if quant in ("Q4_K_M", "Q5_K_M"):
        return "Q6_K" if _more_bits(layer, num_layers) else None
    if quant in ("Q4_K_S", "IQ4_NL", "IQ4_XS"):
        return "Q5_K" if layer < num_layers // 8 else None
    if quant == "Q3_K_M":
        return "Q5_K" if layer < num_layers // 16 else "Q4_K"
    wider: dict[str, GgmlType] = {"Q3_K_L": "Q5_K", "Q2_K": "Q3_K"}
    return wider.get(quant)
