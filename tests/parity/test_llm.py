"""The language model against the recorded original, and at another size against the definition of LLaMA."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from vllama.export.llama import LlamaConfig, open_llama, tensor_shapes
from vllama.export.to_gguf import to_gguf
from vllama.runtime.answer import answer_text
from vllama.runtime.llm.backbone import Backbone
from vllama.runtime.llm.sampler import sampling_probabilities
from vllama.runtime.prompt import ControlToken, Piece
from vllama.runtime.registry import find_spec
from vllama.runtime.spec import ModelSpec, Sampling, WeightFile
from vllama.runtime.types import Embeds

CASES = [
    f"{prompt}_{kind}"
    for prompt in ("vicuna", "llama_2")
    for kind in ("video", "audiovideo", "image", "video_two_turns", "audiovideo_two_turns")
]
TWO_TURNS = [case for case in CASES if case.endswith("two_turns")]
LOGITS_ATOL = 5e-4
Golden = Callable[[str], dict[str, np.ndarray]]
Segments = list[list[int] | Embeds]


@dataclass(frozen=True)
class Chat:
    """One recorded chat."""

    case: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def turns(self) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = self.case["turns"]
        return turns

    def pieces(self, turn: int) -> list[Piece]:
        pieces: list[Piece] = []
        for number, text in enumerate(self.turns[turn]["segments"]):
            pieces += split(text)
            if number < len(self.case["modalities"]):
                pieces.append(Embeds(self.arrays[f"modality{number}"][0], "video"))
        return pieces


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory, vicuna_spec: ModelSpec, tiny_weights: Path) -> Path:
    path = tmp_path_factory.mktemp("llm") / "llm.gguf"
    to_gguf(open_llama(vicuna_spec, tiny_weights), vicuna_spec, path, "F32")
    return path


@pytest.fixture(scope="module")
def backbone(tiny_gguf: Path, vicuna_spec: ModelSpec) -> Iterator[Backbone]:
    with Backbone(tiny_gguf, vicuna_spec.llm.n_ctx, threads=1, kv="f32") as opened:
        yield opened


@pytest.fixture(scope="module")
def embedding(tiny_gguf: Path) -> np.ndarray:
    return next(tensor.data for tensor in GGUFReader(tiny_gguf).tensors if tensor.name == "token_embd.weight")


@pytest.fixture(scope="module")
def chat(reference: Path, golden: Golden) -> Callable[[str], Chat]:
    cases = json.loads((reference / "tiny" / "golden" / "chat_cases.json").read_text("utf-8"))
    return lambda name: Chat(cases[name], golden(f"chat_{name}"))


def test_token_ids_are_those_of_the_original(backbone: Backbone, reference: Path) -> None:
    table = json.loads((reference / "tiny" / "golden" / "tokenizer.json").read_text("utf-8"))
    assert (backbone.tokenize([ControlToken("<s>")])[-1], backbone.tokenize([ControlToken("</s>")])[-1]) == (
        [table["bos"]],
        [table["eos"]],
    )
    # Literals that upstream turns into control tokens stay text here, because users can type them.
    rows = [case for case in table["cases"] if not re.search("<(Image|Audio)Here>|<unk>", case["text"])]
    assert rows
    for row in rows:
        tokens = flat(backbone.tokenize(["", *split(row["text"])]))
        assert tokens == row["ids_with_bos"], row["text"]
        assert tokens[1:] == row["ids_without_bos"], row["text"]


@pytest.mark.parametrize("name", CASES)
def test_the_prompt_has_the_rows_of_the_original(
    name: str, chat: Callable[[str], Chat], backbone: Backbone, embedding: np.ndarray
) -> None:
    recorded = chat(name)
    for turn, row in enumerate(recorded.turns):
        segments = backbone.tokenize(recorded.pieces(turn))
        assert flat(segments) == [token for ids in row["segment_ids"] for token in ids]
        np.testing.assert_array_equal(rows_of(segments, embedding), recorded.arrays[f"turn{turn}_inputs_embeds"][0])


@pytest.mark.parametrize("name", CASES)
def test_logits_tokens_and_text_are_those_of_the_original(
    name: str, chat: Callable[[str], Chat], backbone: Backbone, tiny_models: Path
) -> None:
    recorded = chat(name)
    prompt = find_spec(f"tiny-{recorded.case['format'].replace('_', '-')}", tiny_models).prompt
    for turn, row in enumerate(recorded.turns):
        backbone.prefill(backbone.tokenize(recorded.pieces(turn)))
        answered(backbone, recorded, turn)
        raw = b"".join(backbone.piece(token) for token in row["output_ids"]).decode("utf-8", "replace")
        assert answer_text(raw, prompt.stop, prompt.keep_after) == row["output_text"]


@pytest.mark.parametrize("name", TWO_TURNS)
def test_the_second_turn_decodes_only_what_is_new(
    name: str, chat: Callable[[str], Chat], tiny_gguf: Path, vicuna_spec: ModelSpec, embedding: np.ndarray
) -> None:
    recorded = chat(name)
    with Backbone(tiny_gguf, vicuna_spec.llm.n_ctx, threads=1, kv="f32") as backbone:
        first = backbone.tokenize(recorded.pieces(0))
        assert backbone.prefill(first) == len(rows_of(first, embedding))
        answered(backbone, recorded, 0)
        second = backbone.tokenize(recorded.pieces(1))
        known = rows_of([*first, recorded.turns[0]["output_ids"][:-1]], embedding)
        wanted = rows_of(second, embedding)
        same = next(i for i, (old, new) in enumerate(zip(known, wanted, strict=False)) if (old != new).any())
        assert same >= len(rows_of(first, embedding)) - 1
        assert backbone.prefill(second) == len(wanted) - same
        answered(backbone, recorded, 1)


def test_a_prompt_without_its_first_rows_is_answered_like_the_original(
    chat: Callable[[str], Chat], backbone: Backbone
) -> None:
    recorded = chat("vicuna_video_cropped")
    rows = recorded.arrays["turn0_inputs_embeds"][0]
    segments = backbone.tokenize(recorded.pieces(0))
    dropped = sum(map(length, segments)) - len(rows)
    assert dropped > 0
    backbone.prefill(cropped(segments, dropped))
    answered(backbone, recorded, 0)
    backbone.prefill([Embeds(rows, "video")])
    answered(backbone, recorded, 0)


def test_sampling_probabilities_are_those_of_the_original(golden: Golden) -> None:
    arrays = golden("sampling")
    names = [name for name in arrays if name.startswith("probs_")]
    assert names
    for name in names:
        temperature, top_p, top_k = (float(value) for value in re.findall(r"[\d.]+", name))
        sampling = Sampling(temperature=temperature, top_p=top_p, top_k=int(top_k), max_tokens=1)
        probabilities = sampling_probabilities(arrays["logits"], sampling)
        np.testing.assert_array_equal(probabilities > 0, arrays[name] > 0, err_msg=name)
        np.testing.assert_allclose(probabilities, arrays[name], atol=1e-6, err_msg=name)


def test_the_repetition_penalty_is_that_of_the_original(golden: Golden) -> None:
    arrays = golden("sampling")
    sampling = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=1, repetition_penalty=1.2)
    probabilities = sampling_probabilities(arrays["logits"], sampling, arrays["rep_prev_ids"].tolist())
    expected = torch.softmax(torch.from_numpy(arrays["rep_1.2_logits"]), 0).numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


@dataclass(frozen=True)
class Other:
    """A random LLaMA of a size and vocabulary of its own."""

    config: LlamaConfig
    weights: dict[str, torch.Tensor]
    sentencepiece: SentencePieceProcessor
    backbone: Backbone


@pytest.fixture(scope="module", params=[(8, "safetensors"), (2, "bin")], ids=["heads-of-their-own", "shared-heads"])
def other(
    request: pytest.FixtureRequest, vicuna_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Other]:
    kv_heads, suffix = request.param
    folder = tmp_path_factory.mktemp("other") / "llama"
    folder.mkdir()
    SentencePieceTrainer.train(
        sentence_iterator=iter(Path(__file__).read_text("utf-8").splitlines() * 2),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    config = LlamaConfig(603, 256, 320, 3, 8, kv_heads, 1e-5, 20000.0, 512)
    weights = random_weights(config)
    write_shards(folder, config, weights, suffix)
    spec = replace(
        vicuna_spec,
        llm=replace(vicuna_spec.llm, hidden_size=config.hidden_size),
        files=replace(vicuna_spec.files, llm=WeightFile(folder.name)),
    )
    path = folder.parent / "llm.gguf"
    to_gguf(open_llama(spec, folder.parent), spec, path, "F32")
    sentencepiece = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    with Backbone(path, 512, threads=2, kv="f32") as backbone:
        yield Other(config, weights, sentencepiece, backbone)


@pytest.mark.parametrize("rows", [1, 100, 300])
def test_another_size_has_the_logits_of_its_definition(other: Other, rows: int) -> None:
    media = np.random.default_rng(rows).normal(0, 0.5, (rows, 256)).astype(np.float32)
    segments = other.backbone.tokenize(
        ["What is this? ", Embeds(media, "video"), "</Video> Answer:", ControlToken("</s>")]
    )
    prompt = torch.from_numpy(rows_of(segments, other.weights["model.embed_tokens.weight"].float().numpy()))
    other.backbone.prefill(segments)
    read = len(prompt)
    for token in other.backbone.generate(Sampling(temperature=0, top_p=1.0, top_k=0, max_tokens=5), 0):
        np.testing.assert_allclose(other.backbone.logits(), llama(prompt, other), atol=1e-3)
        prompt = torch.cat([prompt, other.weights["model.embed_tokens.weight"][token][None].float()])
    assert len(prompt) == read + 5 or other.backbone.finish == "stop"
    assert len(prompt) > read


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60) | st.text(alphabet="<s>/#[] \n\tabl29é🐶", max_size=60))
def test_any_text_has_the_token_ids_of_sentencepiece(other: Other, text: str) -> None:
    assert flat(other.backbone.tokenize([text])) == [1, *other.sentencepiece.encode(text)]


def split(text: str) -> list[Piece]:
    """Text with <s> and </s> as control tokens."""
    control: dict[str, Piece] = {"<s>": ControlToken("<s>"), "</s>": ControlToken("</s>")}
    return [control.get(part, part) for part in re.split("(</?s>)", text) if part]


def length(segment: list[int] | Embeds) -> int:
    return len(segment) if isinstance(segment, list) else len(segment.data)


def flat(segments: Segments) -> list[int]:
    return [token for segment in segments if isinstance(segment, list) for token in segment]


def rows_of(segments: Segments, embedding: np.ndarray) -> np.ndarray:
    return np.concatenate([embedding[seg] if isinstance(seg, list) else seg.data for seg in segments])


def cropped(segments: Segments, dropped: int) -> Segments:
    kept: Segments = []
    for segment in segments:
        cut = min(dropped, length(segment))
        dropped -= cut
        kept.append(segment[cut:] if isinstance(segment, list) else Embeds(segment.data[cut:], segment.modality))
    return kept


def answered(backbone: Backbone, recorded: Chat, turn: int) -> None:
    """The prompt is read; compare what follows with the record."""
    arrays, ids = recorded.arrays, recorded.turns[turn]["output_ids"]
    np.testing.assert_allclose(backbone.logits(), arrays[f"turn{turn}_first_logits"], atol=LOGITS_ATOL)
    greedy = Sampling(temperature=0, top_p=1.0, top_k=0, max_tokens=recorded.case["max_new_tokens"])
    tokens = []
    for step, token in enumerate(backbone.generate(greedy, 0)):
        expected = arrays[f"turn{turn}_step_logits"][step]
        np.testing.assert_allclose(backbone.logits(), expected, atol=LOGITS_ATOL, err_msg=f"step {step}")
        tokens.append(token)
    assert tokens == ids
    assert backbone.finish == "length"


def random_weights(config: LlamaConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in tensor_shapes(config):
        values = torch.randn(shape, generator=generator)
        weights[name] = (1 + 0.1 * values if len(shape) == 1 else 0.06 * values).half()
    return weights


def write_shards(folder: Path, config: LlamaConfig, weights: dict[str, torch.Tensor], suffix: str) -> None:
    table = {
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.n_ctx_train,
    }
    (folder / "config.json").write_text(json.dumps(table), "utf-8")
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    save = save_file if suffix == "safetensors" else torch.save
    places = {name: f"{stem}-{1 + number % 2:05}-of-00002.{suffix}" for number, name in enumerate(weights)}
    for place in set(places.values()):
        save({name: weights[name] for name in weights if places[name] == place}, folder / place)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": places}), "utf-8")


def llama(rows: torch.Tensor, other: Other) -> np.ndarray:
    """(n, hidden_size) rows -> (n_vocab,) logits of the last one, by the definition of LLaMA."""
    config, weights = other.config, {name: tensor.float() for name, tensor in other.weights.items()}
    count, head = len(rows), config.hidden_size // config.num_heads
    angles = torch.arange(count)[:, None] / config.rope_theta ** (torch.arange(0, head, 2) / head)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return weights[f"{name}.weight"] * x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()

    def heads(x: torch.Tensor, name: str) -> torch.Tensor:
        y = (x @ weights[f"{name}.weight"].T).view(count, -1, head).transpose(0, 1)
        return y.repeat_interleave(config.num_heads // len(y), 0)

    def turned(x: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, -1)
        return x * cos + torch.cat([-right, left], -1) * sin

    x = rows
    for layer in range(config.num_layers):
        block = f"model.layers.{layer}"
        y = norm(x, f"{block}.input_layernorm")
        q, k, v = (heads(y, f"{block}.self_attn.{name}_proj") for name in "qkv")
        scores = turned(q) @ turned(k).transpose(1, 2) / head**0.5
        scores = scores.masked_fill(torch.ones(count, count).triu(1).bool(), float("-inf"))
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(count, -1)
        x = x + mixed @ weights[f"{block}.self_attn.o_proj.weight"].T
        y = norm(x, f"{block}.post_attention_layernorm")
        gate, up = (y @ weights[f"{block}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (torch.nn.functional.silu(gate) * up) @ weights[f"{block}.mlp.down_proj.weight"].T
    return (norm(x[-1], "model.norm") @ weights["lm_head.weight"].T).numpy()
