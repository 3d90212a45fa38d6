"""ImageBind's audio branch: one filterbank -> one vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vllama.runtime.spec import AudioEncoder, AudioSpec

_STEM_EPS, _BLOCK_EPS, _HEAD_EPS = 1e-5, 1e-6, 1e-6
_LOGIT_SCALE = math.log(20.0)


class Stem(nn.Module):
    """Patches of the filterbank, mel outer, time inner."""

    def __init__(self, spec: AudioEncoder) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, spec.hidden_size, spec.kernel_size, spec.stride, bias=False)
        self.norm_layer = nn.LayerNorm(spec.hidden_size, _STEM_EPS)

    def forward(self, fbank: Tensor) -> Tensor:
        out: Tensor = self.norm_layer(self.proj(fbank).flatten(2).transpose(1, 2))
        return out


class PositionHelper(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))


class Preprocessor(nn.Module):
    """fbank (n, 1, mel, time) -> tokens (n, 1 + patches, hidden_size), class token first."""

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        encoder = spec.encoder
        self.cls_token = nn.Parameter(torch.zeros(1, 1, encoder.hidden_size))
        self.rgbt_stem = Stem(encoder)
        self.pos_embedding_helper = PositionHelper(1 + spec.patches, encoder.hidden_size)

    def forward(self, fbank: Tensor) -> Tensor:
        x = self.rgbt_stem(fbank)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1)
        return x + self.pos_embedding_helper.pos_embed


class Attention(nn.Module):
    """Attention with one learned key and value more than there are tokens; they get no projection bias."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.bias_k = nn.Parameter(torch.zeros(1, 1, width))
        self.bias_v = nn.Parameter(torch.zeros(1, 1, width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = functional.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        k = torch.cat((k, self.bias_k.expand(n, -1, -1)), 1)
        v = torch.cat((v, self.bias_v.expand(n, -1, -1)), 1)
        q, k, v = (t.reshape(n, -1, self.num_heads, width // self.num_heads).transpose(1, 2) for t in (q, k, v))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        out: Tensor = self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, tokens, width))
        return out


class Mlp(nn.Module):
    def __init__(self, spec: AudioEncoder) -> None:
        super().__init__()
        self.fc1 = nn.Linear(spec.hidden_size, spec.intermediate_size)
        self.fc2 = nn.Linear(spec.intermediate_size, spec.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    def __init__(self, spec: AudioEncoder) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(spec.hidden_size, _BLOCK_EPS)
        self.attn = Attention(spec.hidden_size, spec.num_heads)
        self.norm_2 = nn.LayerNorm(spec.hidden_size, _BLOCK_EPS)
        self.mlp = Mlp(spec)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm_1(x))
        x = x + self.mlp(self.norm_2(x))
        return x


class Trunk(nn.Module):
    def __init__(self, spec: AudioEncoder) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class ClassToken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


class UnitLength(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1)


class LogitScale(nn.Module):
    """Times a learned constant, at most 100."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_logit_scale", torch.tensor(_LOGIT_SCALE))
        self.log_logit_scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.log_logit_scale.exp().clamp(max=100.0)


class ImageBindAudio(nn.Module):
    """fbank (n, 1, num_mel_bins, target_length) -> (n, output_size), of length 20.

    Source: Video-LLaMA 64888c0, video_llama/models/ImageBind/models/imagebind_model.py.
    """

    def __init__(self, spec: AudioSpec) -> None:
        super().__init__()
        encoder = spec.encoder
        self.modality_preprocessors = nn.ModuleDict({"audio": Preprocessor(spec)})
        self.modality_trunks = nn.ModuleDict({"audio": Trunk(encoder)})
        head = (
            nn.LayerNorm(encoder.hidden_size, _HEAD_EPS),
            ClassToken(),
            nn.Linear(encoder.hidden_size, encoder.output_size, bias=False),
        )
        self.modality_heads = nn.ModuleDict({"audio": nn.Sequential(*head)})
        self.modality_postprocessors = nn.ModuleDict({"audio": nn.Sequential(UnitLength(), LogitScale())})

    def forward(self, fbank: Tensor) -> Tensor:
        x = fbank
        for stage in (
            self.modality_preprocessors,
            self.modality_trunks,
            self.modality_heads,
            self.modality_postprocessors,
        ):
            x = stage["audio"](x)
        return x
