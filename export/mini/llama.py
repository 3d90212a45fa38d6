"""The miniature's language model: a plain LLaMA in torch with the key names of an HF folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

CONSTANT = 2.0  # channel 0 of every embedding row, and of what media put in their place: attention heads read it
_CONTENT_STD = 0.7  # of the other channels; much less drowns a token in what attention adds to it


@dataclass(frozen=True)
class LlamaShape:
    """Dimensions as config.json names them."""

    vocab_size: int = 768
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_position_embeddings: int = 1024

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads


class Llama(nn.Module):
    """state_dict() has the keys of LlamaForCausalLM."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = _Trunk(shape)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)

    def embed(self, tokens: Tensor) -> Tensor:
        """(b, n) ids -> (b, n, hidden); ids below 0 are places for embeds of media and give zeros."""
        embedded: Tensor = self.model.embed_tokens(tokens.clamp(min=0))
        return embedded * (tokens >= 0).unsqueeze(-1)

    def forward(self, embeds: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states, normalised.

        Args:
            embeds: (b, n, hidden). positions: (b, n) of rotary embedding. mask: bool (b, 1, n, n), true where a row may
                look at a column.

        Returns:
            (b, n, hidden); lm_head makes logits of those that are needed.
        """
        size = self.shape.head_size
        rates = self.shape.rope_theta ** (-torch.arange(0, size, 2, dtype=torch.float32, device=embeds.device) / size)
        angles = positions.unsqueeze(1).unsqueeze(-1) * rates  # (b, 1, n, size / 2)
        turn = (angles.cos(), angles.sin())
        bias = torch.zeros(mask.shape, device=embeds.device).masked_fill_(~mask, -math.inf)
        for layer in self.model.layers:
            embeds = layer(embeds, turn, bias)
        normalised: Tensor = self.model.norm(embeds)
        return normalised


class _Trunk(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)


class _Layer(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = _Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = _Mlp(shape)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turn, bias)
        added: Tensor = self.mlp(self.post_attention_layernorm(x))
        return x + added


class _Attention(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        hidden, self.heads = shape.hidden_size, shape.num_attention_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(hidden, hidden, bias=False) for _ in range(4))

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        q, k, v = (
            part(x).float().unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        with torch.autocast(
            x.device.type, enabled=False
        ):  # sharp attention needs exact scores, and is faster with them
            y = F.scaled_dot_product_attention(_rotate(q, turn), _rotate(k, turn), v, attn_mask=bias)
        out: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return out


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = turn
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class _Mlp(nn.Module):
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


@torch.no_grad()
def start_weights(llama: Llama) -> None:
    """Start values with which look-ups in the prompt are learned in hundreds of steps instead of not at all.

    Three heads of the first layer look one, two and three tokens back from the start; heads of the next two match the
    token itself or the one before it (of the query) with either of the key. Everything stays trainable.
    """
    torch.manual_seed(1)
    shape = llama.shape
    for name, weight in llama.named_parameters():
        if weight.dim() > 1:
            halved = name.endswith(("o_proj.weight", "down_proj.weight"))
            weight.normal_(0.0, (0.5 if halved else 1.0) * weight.shape[1] ** -0.5)
    llama.lm_head.weight.normal_(0.0, 0.03)
    llama.model.embed_tokens.weight.normal_(0.0, _CONTENT_STD)
    llama.model.embed_tokens.weight[:, 0] = CONSTANT
    size, half = shape.head_size, shape.head_size // 2
    rates = shape.rope_theta ** (-torch.arange(half) / half)
    attention = [part for part in llama.modules() if isinstance(part, _Attention)]
    look = attention[0]
    look.o_proj.weight.normal_(0.0, 0.075)
    fast = torch.arange(12)
    for head, back in enumerate((1, 2, 3)):
        rows = slice(head * size, (head + 1) * size)
        for part in (look.q_proj, look.k_proj):
            part.weight[rows] *= 0.3
        look.q_proj.weight[head * size + fast, 0] = 2.0
        look.k_proj.weight[head * size + fast, 0] = 2.0 * torch.cos(back * rates[fast])
        look.k_proj.weight[head * size + half + fast, 0] = 2.0 * torch.sin(back * rates[fast])
    slow = torch.cat((torch.arange(14, half), torch.arange(half + 14, size)))
    own = look.v_proj.weight[:size] * 1.4  # (size, hidden)
    before = look.o_proj.weight[:, :size].T * 0.8 * 1.4
    matches = ((own, before), (before, own), (own, own), (before, before))
    for layer, heads in ((1, (0, 1, 2)), (2, (0, 1, 3))):
        for head, match in enumerate(heads):
            for part, wanted in zip((attention[layer].q_proj, attention[layer].k_proj), matches[match], strict=True):
                part.weight[head * size : (head + 1) * size] *= 0.3
                part.weight[head * size + slow] = wanted[slow]


def write_hf(llama: Llama, folder: Path) -> None:
    """config.json and model.safetensors; the tokenizer is written by `train_tokenizer`."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = llama.shape
    table = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_attention_heads,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "max_position_embeddings": shape.max_position_embeddings,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": str(llama.lm_head.weight.dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(table, indent=2) + "\n")
    part = folder / "model.part"
    save_file({key: value.contiguous() for key, value in llama.state_dict().items()}, part, {"format": "pt"})
    part.replace(folder / "model.safetensors")


def read_hf(folder: Path) -> Llama:
    """The model in a folder that `write_hf` wrote."""
    from safetensors.torch import load_file

    table = json.loads((folder / "config.json").read_text("utf-8"))
    names = LlamaShape.__dataclass_fields__
    llama = Llama(LlamaShape(**{name: table[name] for name in names}))
    llama.load_state_dict(load_file(folder / "model.safetensors"))
    return llama
