"""One run of a graph in float32: what each matrix is given, and what 8 bits would make of its product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from vllama.runtime.types import Float32

from .folds import folds
from .graphs import Graph
from .imagebind import Attention
from .lent import Read, lent
from .rounding import SMALLEST_SCALE, even_factor, round_tokens, round_weight, weight_scale

_OWN: dict[type[nn.Module], str] = {nn.Linear: "weight", Attention: "in_proj_weight"}
_TOKENS, _OUTPUTS = 48, 512  # of each product are enough to tell how far it is


@dataclass(frozen=True)
class Seen:
    """What one matrix met.

    activations: the largest of each channel of what it multiplies, (K,). weights: the largest of each of its columns,
    relative to that of its output, (K,). narrow, wide: relative error of its product in 8 bits, with the weights
    rounded once, and with what that leaves rounded too.
    """

    activations: Float32
    weights: Float32
    narrow: float
    wide: float


def run(graph: Graph, read: Read, inputs: Mapping[str, Float32]) -> Float32:
    """The output of a graph without weights, which are read as they are needed."""
    with lent(graph, read):
        output: Float32 = graph(*(torch.from_numpy(array) for array in inputs.values())).numpy()
    return output


def observe(graph: Graph, read: Read, inputs: Mapping[str, Float32], count: int) -> tuple[Float32, dict[str, Seen]]:
    """The same, and what its matrices met by their keys, in the first `count` of the batch."""
    seen: dict[str, Seen] = {}
    movable = {key for fold in folds(graph) for key in fold.takers}
    hooks = []
    try:
        with lent(graph, read):
            for name, part in graph.named_modules():
                if own := _OWN.get(type(part)):
                    watch = partial(_watch, seen, f"{name}.{own}", f"{name}.{own}" in movable, count)
                    hooks.append(part.register_forward_pre_hook(watch))
            output: Float32 = graph(*(torch.from_numpy(array) for array in inputs.values())).numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return output, seen


def _watch(
    seen: dict[str, Seen], key: str, movable: bool, count: int, part: nn.Module, arguments: tuple[Tensor, ...]
) -> None:
    x = arguments[0][:count].flatten(0, -2)
    weight = part.get_parameter(key.rpartition(".")[2]).detach().numpy().T  # (K, N)
    sizes = np.abs(weight)
    largest, columns = x.abs().amax(0).numpy(), (sizes / np.maximum(sizes.max(0), SMALLEST_SCALE)).max(1)
    tokens = x[:: max(1, len(x) // _TOKENS)].numpy()
    sample = weight[:, :: max(1, weight.shape[1] // _OUTPUTS)]
    if movable:
        factor = even_factor(largest, columns)
        tokens, sample = tokens / factor, sample * factor[:, None]
    seen[key] = Seen(largest, columns, *_errors(tokens, sample))


def _errors(tokens: Float32, weight: Float32) -> tuple[float, float]:
    """Of the product with weights rounded once, and twice."""
    exact = tokens @ weight
    terms = round_tokens(tokens) @ round_weight(weight, wide=True).astype(np.float32) * weight_scale(weight, wide=True)
    first, second = np.split(terms, 2, 1)
    return _error(first, exact), _error(first + second, exact)


def _error(found: Float32, exact: Float32) -> float:
    return float(np.linalg.norm(found - exact) / max(float(np.linalg.norm(exact)), SMALLEST_SCALE))
