"""The language model of a folder run in float32, layer by layer: one layer is in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vllama.runtime.types import Float32

from .lent import lent
from .llama import LlamaConfig, LlamaFolder
from .mini.llama import Llama, LlamaShape

_EMBEDDING = "model.embed_tokens.weight"
Row = int | Float32  # a token, or a row of embeds (hidden_size,)


class Rows:
    """Prompts with their answers, as a tree of positions: what two of them begin with is there once."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._parents: list[int] = []
        self._known: dict[tuple[int, object], int] = {}

    def add(self, rows: Sequence[Row], keys: Sequence[object]) -> list[int]:
        """The positions in the tree of one sequence; keys: equal where rows are."""
        places, parent = [], -1
        for row, key in zip(rows, keys, strict=True):
            if (parent, key) not in self._known:
                self._known[parent, key] = len(self.rows)
                self.rows.append(row)
                self._parents.append(parent)
            parent = self._known[parent, key]
            places.append(parent)
        return places

    def layout(self) -> tuple[Tensor, Tensor]:
        """Positions (1, n) of rotary embedding, and whom each row sees (1, 1, n, n)."""
        count = len(self.rows)
        sees = torch.eye(count, dtype=torch.bool)
        depth = torch.zeros(1, count, dtype=torch.long)
        for place, parent in enumerate(self._parents):
            if parent >= 0:
                sees[place] |= sees[parent]
                depth[0, place] = depth[0, parent] + 1
        return depth, sees[None, None]


def reference_logits(
    llama: LlamaFolder, rows: Rows, wanted: Sequence[int], read: Callable[[int], None] = lambda size: None
) -> Float32:
    """Logits (wanted, n_vocab) of some positions of a tree.

    Args:
        read: called with the bytes of each tensor that was read.
    """
    config = llama.config
    with torch.device("meta"):
        model = Llama(_shape(config)).eval()

    def tensor(key: str) -> Tensor:
        weight = llama.tensor(key)
        read(weight.nbytes)
        return _shared(weight, config) if key.endswith(("k_proj.weight", "v_proj.weight")) else weight

    positions, sees = rows.layout()
    embeds = _embeds(rows.rows, tensor(_EMBEDDING), config.hidden_size)
    with lent(model, tensor):
        hidden = model(embeds, positions, sees)[0, list(wanted)]
        logits: Float32 = model.lm_head(hidden).numpy()
    return logits


def reference_bytes(llama: LlamaFolder) -> int:
    """Bytes of all tensors that `reference_logits` reads."""
    size = {"F32": 4, "F16": 2, "BF16": 2}[llama.dtype]
    return sum(math.prod(shape) for _, shape in llama.shapes) * size


def _embeds(rows: Sequence[Row], table: Tensor, hidden_size: int) -> Tensor:
    embeds = torch.empty(1, len(rows), hidden_size)
    for place, row in enumerate(rows):
        embeds[0, place] = torch.from_numpy(row) if isinstance(row, np.ndarray) else table[row]
    return embeds


def _shared(weight: Tensor, config: LlamaConfig) -> Tensor:
    """Keys or values that several heads share, once for each of them."""
    heads = weight.view(config.num_kv_heads, -1, weight.shape[-1])
    return heads.repeat_interleave(config.num_heads // config.num_kv_heads, 0).flatten(0, 1)


def _shape(config: LlamaConfig) -> LlamaShape:
    return LlamaShape(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        max_position_embeddings=config.n_ctx_train,
    )
