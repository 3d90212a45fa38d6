from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch

from vllama.export.llama import _read_config, tensor_shapes
from vllama.export.mini import stage_language
from vllama.export.mini.dialogues import batch_of, sample_row
from vllama.export.mini.llama import Llama, LlamaShape, read_hf, start_weights, write_hf
from vllama.export.mini.stage_language import language_loss, train_language
from vllama.export.mini.tokenizer import read_tokenizer, train_tokenizer


def test_folder_holds_the_tensors_of_a_llama(tmp_path: Path) -> None:
    llama = Llama(LlamaShape())
    start_weights(llama)
    write_hf(llama, tmp_path)
    config = _read_config(tmp_path / "config.json", json.loads((tmp_path / "config.json").read_text()))
    assert {key: tuple(value.shape) for key, value in llama.state_dict().items()} == dict(tensor_shapes(config))
    again = read_hf(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(llama.parameters(), again.parameters(), strict=True))


def test_first_layer_looks_back_by_one_two_and_three() -> None:
    llama = Llama(LlamaShape())
    start_weights(llama)
    tokens = torch.randint(3, 700, (1, 12))
    seen: list[torch.Tensor] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
        seen.append((q @ k.transpose(-1, -2) / 8 + attn_mask).argmax(-1))
        return original(q, k, v, attn_mask=attn_mask)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        mask = torch.ones(12, 12, dtype=torch.bool).tril()[None, None]
        llama(llama.embed(tokens), torch.arange(12)[None], mask)
    for head, back in enumerate((1, 2, 3)):
        hits = (seen[0][0, head, 4:] == torch.arange(4, 12) - back).float().mean()
        assert hits >= 0.75, (head, seen[0][0, head])


def test_places_of_media_have_no_embedding() -> None:
    llama = Llama(LlamaShape())
    embedded = llama.embed(torch.tensor([[5, -1, -2]]))
    assert embedded[0, 0].any()
    assert not embedded[0, 1:].any()


def test_loss_falls_and_right_answers_are_counted(tmp_path: Path) -> None:
    train_tokenizer(tmp_path, clips=300)
    tokenizer = read_tokenizer(tmp_path)
    llama = Llama(LlamaShape(hidden_size=64, intermediate_size=64, num_hidden_layers=4, num_attention_heads=1))
    optimizer = torch.optim.AdamW(llama.parameters(), 3e-3)
    batch = batch_of([sample_row(tokenizer, Random(1), 128, {})])
    losses = []
    for _ in range(80):
        loss, right = language_loss(llama, llama.embed(batch.tokens), batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert right.shape == (len(batch.asked),)


def test_training_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage_language, "ROWS", 1)
    monkeypatch.setattr(stage_language, "ROOM", 90)
    monkeypatch.setattr(stage_language, "_CHECKED", 2)
    monkeypatch.setattr(stage_language, "train_tokenizer", partial(train_tokenizer, clips=300))
    clock = iter(range(1000))  # a step takes a second
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    folder = train_language(tmp_path, minutes=0.05)
    first = torch.load(tmp_path / "language.pt", weights_only=True)["progress"]
    train_language(tmp_path, minutes=0.1)
    second = torch.load(tmp_path / "language.pt", weights_only=True)["progress"]
    assert (first["steps"], second["steps"]) == (3, 6)
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.model", "tokenizer_config.json",
    }  # fmt: skip
    assert " 0 (" in capsys.readouterr().out
