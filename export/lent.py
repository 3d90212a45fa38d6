"""A module whose matrices stay in their file: each is read when its module runs and given back when it is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Read = Callable[[str], Tensor]  # a tensor by its key in the module's state_dict


def is_matrix(key: str, tensor: Tensor) -> bool:
    """Whether a tensor is of the kinds that hold nearly all of the weights, each used by its own module only."""
    return tensor.ndim >= 2 and key.endswith("weight")


@torch.no_grad()
def hollow(module: nn.Module, read: Read) -> list[str]:
    """Give a module without weights its small tensors in float32, and stand-ins of no size for its matrices.

    Returns:
        Keys of the matrices. Whatever is computed from a stand-in is NaN.
    """
    stood_in = []
    for key, tensor in module.state_dict(keep_vars=True).items():
        if is_matrix(key, tensor):
            stood_in.append(key)
            _assign(module, key, _stand_in(tensor))
        else:
            _assign(module, key, read(key).to(torch.float32))
    return stood_in


@contextmanager
def lent(module: nn.Module, read: Read) -> Iterator[None]:
    """Inside, a module without weights can be run: it holds the matrices of those of its parts that are running."""
    hollow(module, read)
    hooks = []
    for name, part in module.named_modules():
        own = {key: tensor for key, tensor in part.named_parameters(recurse=False) if is_matrix(key, tensor)}
        if own:
            hooks.append(part.register_forward_pre_hook(_lend(own, name, read)))
            hooks.append(part.register_forward_hook(_take_back(own), always_call=True))
    try:
        with torch.no_grad():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _lend(own: dict[str, nn.Parameter], name: str, read: Read) -> Callable[[nn.Module, Any], None]:
    def hook(part: nn.Module, _: Any) -> None:
        for key in own:
            _assign(part, key, read(f"{name}.{key}" if name else key).to(torch.float32))

    return hook


def _take_back(own: dict[str, nn.Parameter]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(part: nn.Module, _: Any, __: Any) -> None:
        for key, tensor in own.items():
            setattr(part, key, tensor)

    return hook


def _stand_in(tensor: Tensor) -> Tensor:
    return torch.full((), math.nan, dtype=torch.float32).expand(tensor.shape)


def _assign(module: nn.Module, key: str, tensor: Tensor) -> None:
    path, _, name = key.rpartition(".")
    part = module.get_submodule(path)
    if name in part._buffers:
        part._buffers[name] = tensor
    else:
        setattr(part, name, nn.Parameter(tensor, requires_grad=False))
