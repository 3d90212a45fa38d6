"""Start values that the encoders and the branches share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def linear_layers(module: nn.Module) -> None:
    """Weights of every linear layer so that it keeps the variance of what it reads; no bias."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=part.in_features**-0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def sines(rows: int, columns: int, width: int) -> Tensor:
    """Positions on a grid as sines of row and column, loud enough to be heard: float32 (rows * columns, width)."""
    frequency = torch.pi * torch.exp(torch.linspace(-3.0, 0.0, width // 4))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    waves = [f(axis.flatten()[:, None] * frequency) for axis in (y, x) for f in (torch.sin, torch.cos)]
    return 0.7 * torch.cat(waves, 1)
