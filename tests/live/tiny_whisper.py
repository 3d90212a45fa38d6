"""A tiny Whisper in CTranslate2's format that says one sentence, whatever it hears.

No published Whisper can be had by the suite. This one has the real layout, files and call path: 80 mel bands, two
convolutions, encoder and decoder with random attention. What makes it say the sentence is its table of positions:
position n carries the n-th word, and the embeddings of the words are orthogonal.
"""

from __future__ import annotations

import json
from pathlib import Path

import ctranslate2.specs as specs
import numpy as np
import tokenizers
from ctranslate2.specs import whisper_spec

_HIDDEN, _HEADS, _INNER = 64, 2, 128
_MELS, _FRAMES, _LENGTH = 80, 1500, 448
_SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>",
            "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")  # fmt: skip
_PROMPT = 2  # positions before the first word: <|startoftranscript|> <|notimestamps|>


def write_tiny_whisper(folder: Path, sentence: str = "Is there a red circle?") -> Path:
    """A model folder as converters write it; the same sentence gives the same bytes."""
    words = [f"Ġ{word}" for word in sentence.split()]
    vocabulary = ["<unk>", *dict.fromkeys(words), *_SPECIAL]
    folder.mkdir(parents=True, exist_ok=True)
    said = [vocabulary.index(word) for word in words] + [vocabulary.index("<|endoftext|>")]
    spec = _model(len(vocabulary), said, np.random.default_rng(7))
    spec.register_vocabulary(vocabulary)
    spec.config.suppress_ids, spec.config.suppress_ids_begin = [], []
    spec.config.lang_ids, spec.config.alignment_heads = [vocabulary.index("<|en|>")], [[0, 0]]
    spec.validate()
    spec.save(str(folder))
    _tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": _MELS}), "utf-8")
    return folder


def _model(words: int, said: list[int], rng: np.random.Generator) -> whisper_spec.WhisperSpec:
    spec = specs.WhisperSpec(1, _HEADS, 1, _HEADS)

    def small(*shape: int) -> np.ndarray:
        return (0.02 * rng.standard_normal(shape)).astype(np.float32)

    spec.encoder.conv1.weight, spec.encoder.conv1.bias = small(_HIDDEN, _MELS, 3), small(_HIDDEN)
    spec.encoder.conv2.weight, spec.encoder.conv2.bias = small(_HIDDEN, _HIDDEN, 3), small(_HIDDEN)
    spec.encoder.position_encodings.encodings = small(_FRAMES, _HIDDEN)
    _norm(spec.encoder.layer_norm)
    _layer(spec.encoder.layer[0], small)
    embeddings = np.linalg.qr(rng.standard_normal((_HIDDEN, _HIDDEN)))[0][:words].astype(np.float32)
    positions = np.zeros((_LENGTH, _HIDDEN), np.float32)
    for position in range(_PROMPT - 1, _LENGTH):
        positions[position] = 20.0 * embeddings[said[min(position - _PROMPT + 1, len(said) - 1)]]
    spec.decoder.embeddings.weight = embeddings
    spec.decoder.position_encodings.encodings = positions
    spec.decoder.projection.weight = 8.0 * embeddings
    _norm(spec.decoder.layer_norm)
    _layer(spec.decoder.layer[0], small)
    return spec


def _layer(layer: specs.LayerSpec, small: object) -> None:
    assert callable(small)
    for attention in ("self_attention", "attention"):
        part = getattr(layer, attention, None)
        if part is None:
            continue
        _norm(part.layer_norm)
        for number, linear in enumerate(part.linear):
            rows = _HIDDEN
            if len(part.linear) == 2 and number == 0:
                rows = 3 * _HIDDEN if attention == "self_attention" else _HIDDEN
            elif len(part.linear) == 3 and number == 1:
                rows = 2 * _HIDDEN
            linear.weight, linear.bias = small(rows, _HIDDEN), small(rows)
    _norm(layer.ffn.layer_norm)
    layer.ffn.linear_0.weight, layer.ffn.linear_0.bias = small(_INNER, _HIDDEN), small(_INNER)
    layer.ffn.linear_1.weight, layer.ffn.linear_1.bias = small(_HIDDEN, _INNER), small(_HIDDEN)


def _norm(norm: object) -> None:
    norm.gamma, norm.beta = np.ones(_HIDDEN, np.float32), np.zeros(_HIDDEN, np.float32)  # type: ignore[attr-defined]


def _tokenizer(vocabulary: list[str]) -> tokenizers.Tokenizer:
    model = tokenizers.models.WordLevel({word: number for number, word in enumerate(vocabulary)}, "<unk>")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(list(_SPECIAL))
    return made
