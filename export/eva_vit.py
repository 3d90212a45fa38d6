"""EVA-CLIP vision transformer, as far as Video-LLaMA uses it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vllama.runtime.spec import VisionEncoder

_NORM_EPS = 1e-6


class Attention(nn.Module):
    """Self-attention; K has no bias."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        qkv = self.qkv(x) + bias
        q, k, v = qkv.reshape(n, tokens, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        out: Tensor = self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, tokens, width))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    def __init__(self, spec: VisionEncoder) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.hidden_size, _NORM_EPS)
        self.attn = Attention(spec.hidden_size, spec.num_heads)
        self.norm2 = nn.LayerNorm(spec.hidden_size, _NORM_EPS)
        self.mlp = Mlp(spec.hidden_size, spec.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return x


class PatchEmbed(nn.Module):
    def __init__(self, spec: VisionEncoder) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, spec.hidden_size, spec.patch_size, spec.patch_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        patches: Tensor = self.proj(pixel_values)  # (n, hidden_size, rows, columns)
        return patches.flatten(2).transpose(1, 2)


class EvaVit(nn.Module):
    """pixel_values (n, 3, H, W) -> all tokens after the last used block (n, 1 + patches, hidden_size), no final norm.

    Source: Video-LLaMA 64888c0, video_llama/models/eva_vit.py.
    """

    def __init__(self, spec: VisionEncoder, image_size: int) -> None:
        super().__init__()
        patches = (image_size // spec.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.hidden_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, spec.hidden_size))
        self.patch_embed = PatchEmbed(spec)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))

    def forward(self, pixel_values: Tensor) -> Tensor:
        x: Tensor = self.patch_embed(pixel_values)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


def resize_positions(table: Tensor, patches: int) -> Tensor:
    """A position table (1, 1 + g * g, C) for another square grid of `patches`: class row kept, the rest bicubic.

    Source: Video-LLaMA 64888c0, video_llama/models/eva_vit.py, interpolate_pos_embed.
    """
    old, new = round((table.shape[1] - 1) ** 0.5), round(patches**0.5)
    if old == new:
        return table
    grid = table[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat((table[:, :1].float(), grid.permute(0, 2, 3, 1).flatten(1, 2)), 1)
