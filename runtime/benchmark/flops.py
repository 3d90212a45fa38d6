"""How much arithmetic each graph is: what its matrix products multiply and add, from the model's entry alone."""

from __future__ import annotations

from ..spec import AudioSpec, Qformer, VideoSpec


def frame_flops(spec: VideoSpec) -> int:
    """One picture through the vision encoder and the image Q-former: multiplications and additions."""
    encoder = spec.encoder
    tokens, width = spec.patches + 1, encoder.hidden_size
    embedding = _product(spec.patches, 3 * encoder.patch_size**2, width)
    block = _attention(tokens, tokens, width) + _mlp(tokens, width, encoder.intermediate_size)
    return embedding + encoder.depth * block + _qformer(spec.qformer, tokens, width)


def clip_flops(spec: AudioSpec) -> int:
    """One stretch of sound through the audio encoder."""
    encoder = spec.encoder
    tokens, width = spec.patches + 1, encoder.hidden_size
    embedding = _product(spec.patches, encoder.kernel_size**2, width)
    block = _attention(tokens, tokens + 1, width) + _mlp(tokens, width, encoder.intermediate_size)  # a learned key more
    return embedding + encoder.depth * block + _product(1, width, encoder.output_size)


def video_flops(spec: VideoSpec, frames: int, hidden_size: int) -> int:
    """Features of so many pictures through the video Q-former, to rows of hidden_size for the prompt."""
    head, image = spec.video_qformer, spec.qformer
    read = _qformer(head, frames * image.query_tokens, image.hidden_size)
    return read + _product(head.query_tokens, head.hidden_size, hidden_size)


def audio_flops(spec: AudioSpec, clips: int, hidden_size: int) -> int:
    """Features of so many stretches through the audio Q-former, to rows of hidden_size for the prompt."""
    head = spec.audio_qformer
    read = _qformer(head, clips, spec.encoder.output_size)
    return read + _product(head.query_tokens, head.hidden_size, hidden_size)


def _qformer(spec: Qformer, tokens: int, width: int) -> int:
    queries, own = spec.query_tokens, spec.hidden_size
    layer = _attention(queries, queries, own) + _mlp(queries, own, spec.intermediate_size)
    keys_and_values = 2 * _product(tokens, width, own)
    cross = 2 * _product(queries, own, own) + keys_and_values + 2 * _product(queries, tokens, own)
    crossed = len(range(0, spec.layers, spec.cross_attention_every))
    return spec.layers * layer + crossed * cross


def _attention(queries: int, keys: int, width: int) -> int:
    """Of tokens to themselves: query, key, value and output projections, scores, weighted sums."""
    return 4 * _product(queries, width, width) + 2 * _product(queries, keys, width)


def _mlp(tokens: int, width: int, inner: int) -> int:
    return 2 * _product(tokens, width, inner)


def _product(rows: int, shared: int, columns: int) -> int:
    return 2 * rows * shared * columns
