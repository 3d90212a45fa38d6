from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vllama.export.llama import LlamaConfig, LlamaFolder, open_llama, tensor_shapes
from vllama.export.reference import Rows, reference_bytes, reference_logits
from vllama.runtime.spec import ModelSpec


@pytest.fixture
def llama(vicuna_spec: ModelSpec, tiny_weights: Path) -> LlamaFolder:
    return open_llama(vicuna_spec, tiny_weights)


def logits_of(llama: Any, *sequences: list[int]) -> list[np.ndarray]:
    tree = Rows()
    places = [tree.add(sequence, sequence) for sequence in sequences]
    wanted = [place for each in places for place in each]
    found = reference_logits(llama, tree, wanted)
    return np.split(found, np.cumsum([len(each) for each in places])[:-1])


def test_sequences_share_what_they_begin_with_and_see_nothing_of_each_other(llama: LlamaFolder) -> None:
    one, other = [1, 40, 41, 42, 43], [1, 40, 41, 60, 61, 62]
    tree = Rows()
    tree.add(one, one)
    tree.add(other, other)
    assert len(tree.rows) == 8
    together = logits_of(llama, one, other)
    for sequence, found in zip((one, other), together, strict=True):
        np.testing.assert_allclose(found, logits_of(llama, sequence)[0], rtol=0, atol=1e-5)


def test_rows_with_one_key_are_one_and_equal_tokens_elsewhere_are_not() -> None:
    tree = Rows()
    assert tree.add([5, 5, 5], [5, 5, 5]) == [0, 1, 2]
    assert tree.add([5, 6], [5, 6]) == [0, 3]
    assert tree.add([6, 5], [6, 5]) == [4, 5]


def test_embeds_of_a_token_give_what_the_token_gives(llama: LlamaFolder) -> None:
    table = llama.tensor("model.embed_tokens.weight").float().numpy()
    tree = Rows()
    places = tree.add([1, table[40], table[41]], [1, "a", "b"])
    np.testing.assert_allclose(reference_logits(llama, tree, places), logits_of(llama, [1, 40, 41])[0], atol=1e-6)


def test_bytes_are_counted_as_they_are_read(llama: LlamaFolder) -> None:
    tree, sizes = Rows(), list[int]()
    reference_logits(llama, tree, tree.add([1, 2], [1, 2]), sizes.append)
    assert sum(sizes) == reference_bytes(llama)


def test_shared_keys_and_values_are_those_of_their_group() -> None:
    config = LlamaConfig(30, 32, 48, 2, num_heads=4, num_kv_heads=2, rms_norm_eps=1e-5, rope_theta=1e4, n_ctx_train=64)
    rng = torch.Generator().manual_seed(0)
    tensors = {key: torch.randn(shape, generator=rng) * 0.2 for key, shape in tensor_shapes(config)}
    grouped = SimpleNamespace(config=config, tensor=tensors.__getitem__)
    widened = {
        key: each.view(2, 8, 32)[[0, 0, 1, 1]].reshape(32, 32) if "k_proj" in key or "v_proj" in key else each
        for key, each in tensors.items()
    }
    alone = SimpleNamespace(config=replace(config, num_kv_heads=4), tensor=widened.__getitem__)
    np.testing.assert_allclose(logits_of(grouped, [1, 7, 9])[0], logits_of(alone, [1, 7, 9])[0], rtol=0, atol=1e-6)
