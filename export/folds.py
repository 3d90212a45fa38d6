"""Where the scale of an activation can move into the weights of an architecture, channel by channel.

What produces the channels (a norm, or the rows of the values) is divided by a factor, and the columns of the matrices
that consume them are multiplied by it: the function is unchanged, at no cost. After GELU nothing can be divided, so the
activation itself is: one product more.

Source: Xiao et al., SmoothQuant, arXiv 2211.10438; the values are a fold of our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from . import eva_vit, imagebind, qformer
from .graphs import FramesGraph, Graph


@dataclass(frozen=True)
class Fold:
    """One activation by the keys of the matrices that take it, and of the tensors that make it.

    makers: (key, first row) of each; the channels are rows of a matrix or vector, else the last axis. None: the
    activation itself is divided.
    """

    takers: tuple[str, ...]
    makers: tuple[tuple[str, int], ...] = ()


def folds(graph: Graph) -> Iterator[Fold]:
    """Every activation of a graph whose scale can move."""
    for name, module in graph.named_modules():
        match module:
            case eva_vit.Block():
                width, attn = module.attn.proj.in_features, f"{name}.attn"
                yield Fold((f"{attn}.qkv.weight",), _norm(f"{name}.norm1"))
                yield Fold((f"{attn}.proj.weight",), ((f"{attn}.qkv.weight", 2 * width), (f"{attn}.v_bias", 0)))
                yield from _mlp(name, "norm2")
            case imagebind.Block():
                width, attn = module.attn.out_proj.in_features, f"{name}.attn"
                projection = (f"{attn}.in_proj_weight", 2 * width), (f"{attn}.in_proj_bias", 2 * width)
                yield Fold((f"{attn}.in_proj_weight",), _norm(f"{name}.norm_1"))
                yield Fold((f"{attn}.out_proj.weight",), (*projection, (f"{attn}.bias_v", 0)))
                yield from _mlp(name, "norm_2")
            case qformer.Attention():
                values = (f"{name}.self.value.weight", 0), (f"{name}.self.value.bias", 0)
                yield Fold((f"{name}.output.dense.weight",), values)
            case FramesGraph():
                crossing = [key for key, _ in module.named_modules() if key.endswith("crossattention.self")]
                takers = tuple(f"{key}.{kind}.weight" for key in crossing for kind in ("key", "value"))
                yield Fold(takers, _norm("ln_vision"))


def _mlp(block: str, norm: str) -> Iterator[Fold]:
    yield Fold((f"{block}.mlp.fc1.weight",), _norm(f"{block}.{norm}"))
    yield Fold((f"{block}.mlp.fc2.weight",))


def _norm(name: str) -> tuple[tuple[str, int], ...]:
    return (f"{name}.weight", 0), (f"{name}.bias", 0)
