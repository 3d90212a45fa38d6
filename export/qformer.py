"""Q-Formers: BERT layers whose learned queries attend to encoder tokens; the query path alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from vllama.runtime.spec import Qformer

_NORM_EPS = 1e-12


class SelfAttention(nn.Module):
    """Projections of one attention; K and V take `source_width`."""

    def __init__(self, width: int, num_heads: int, source_width: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        q, k, v = self._heads(self.query(x)), self._heads(self.key(source)), self._heads(self.value(source))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def _heads(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        return x.reshape(n, tokens, self.num_heads, width // self.num_heads).transpose(1, 2)


class Output(nn.Module):
    """Dense, then the norm of it and the residual."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(size, width)
        self.LayerNorm = nn.LayerNorm(width, _NORM_EPS)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(x) + residual)
        return out


class Attention(nn.Module):
    def __init__(self, spec: Qformer, source_width: int) -> None:
        super().__init__()
        self.self = SelfAttention(spec.hidden_size, spec.num_heads, source_width)
        self.output = Output(spec.hidden_size, spec.hidden_size)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        out: Tensor = self.output(self.self(x, source), x)
        return out


class Intermediate(nn.Module):
    def __init__(self, spec: Qformer) -> None:
        super().__init__()
        self.dense = nn.Linear(spec.hidden_size, spec.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(self.dense(x))


class Layer(nn.Module):
    def __init__(self, spec: Qformer, encoder_width: int, crosses: bool) -> None:
        super().__init__()
        self.attention = Attention(spec, spec.hidden_size)
        self.crossattention = Attention(spec, encoder_width) if crosses else None
        self.intermediate_query = Intermediate(spec)
        self.output_query = Output(spec.intermediate_size, spec.hidden_size)

    def forward(self, x: Tensor, encoder_tokens: Tensor) -> Tensor:
        x = self.attention(x, x)
        if self.crossattention is not None:
            x = self.crossattention(x, encoder_tokens)
        out: Tensor = self.output_query(self.intermediate_query(x), x)
        return out


class Embeddings(nn.Module):
    """The norm that stands before the first layer; it is applied to the queries too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.LayerNorm = nn.LayerNorm(width, _NORM_EPS)


class Encoder(nn.Module):
    def __init__(self, spec: Qformer, encoder_width: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            Layer(spec, encoder_width, index % spec.cross_attention_every == 0) for index in range(spec.layers)
        )


class Bert(nn.Module):
    """query_tokens (1, q, hidden_size), encoder tokens (n, m, encoder_width) -> (n, q, hidden_size).

    Source: Video-LLaMA 64888c0, video_llama/models/Qformer.py.
    """

    def __init__(self, spec: Qformer, encoder_width: int) -> None:
        super().__init__()
        self.embeddings = Embeddings(spec.hidden_size)
        self.encoder = Encoder(spec, encoder_width)

    def forward(self, query_tokens: Tensor, encoder_tokens: Tensor) -> Tensor:
        queries: Tensor = self.embeddings.LayerNorm(query_tokens)
        x = queries.expand(encoder_tokens.shape[0], -1, -1)
        for layer in self.encoder.layer:
            x = layer(x, encoder_tokens)
        return x


class QformerModel(nn.Module):
    """`bert` alone, under the name that the files use; there is no `cls` head."""

    def __init__(self, spec: Qformer, encoder_width: int) -> None:
        super().__init__()
        self.bert = Bert(spec, encoder_width)

    def forward(self, query_tokens: Tensor, encoder_tokens: Tensor) -> Tensor:
        out: Tensor = self.bert(query_tokens, encoder_tokens)
        return out


def query_tokens(spec: Qformer) -> nn.Parameter:
    """The learned queries (1, query_tokens, hidden_size)."""
    return nn.Parameter(torch.zeros(1, spec.query_tokens, spec.hidden_size))
