from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import llama_cpp.llama_cpp as library
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import save_file

from vllama.export.llama import LlamaConfig, LlamaFolder, open_llama, tensor_shapes
from vllama.export.quants import file_number
from vllama.export.staging import writing
from vllama.export.to_gguf import permuted, to_gguf
from vllama.runtime.errors import DiskFullError
from vllama.runtime.llm.llm_file import read_llm_facts
from vllama.runtime.llm.quants import QUANTS, quantised_facts
from vllama.runtime.spec import ModelSpec

Made = tuple[LlamaFolder, ModelSpec]


@pytest.fixture(scope="module")
def tiny(vicuna_spec: ModelSpec, tiny_weights: Path) -> LlamaFolder:
    return open_llama(vicuna_spec, tiny_weights)


@pytest.fixture(scope="module")
def random_llama(
    vicuna_spec: ModelSpec, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Made]:
    """A LLaMA of the given hidden_size, intermediate_size, layers, heads and kv heads with random weights."""

    def make(hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> Made:
        source = tiny_weights / vicuna_spec.files.llm.name
        folder = tmp_path_factory.mktemp("weights") / source.name
        folder.mkdir()
        shutil.copyfile(source / "tokenizer.model", folder / "tokenizer.model")
        table = json.loads((source / "config.json").read_text("utf-8"))
        table |= {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
        table |= {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
        (folder / "config.json").write_text(json.dumps(table), "utf-8")
        config = LlamaConfig(table["vocab_size"], hidden, inner, layers, heads, kv_heads, 1e-6, 1e4, 2048)
        torch.manual_seed(0)
        tensors = {
            name: torch.ones(shape) if len(shape) == 1 else 0.05 * torch.randn(shape)
            for name, shape in tensor_shapes(config)
        }
        save_file(tensors, folder / "model.safetensors")
        spec = replace(vicuna_spec, llm=replace(vicuna_spec.llm, hidden_size=hidden))
        return open_llama(spec, folder.parent), spec

    return make


def read(path: Path) -> dict[str, tuple[str, bytes]]:
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in GGUFReader(path).tensors}


def quantised_by_llama_cpp(source: Path, target: Path, quant: str) -> dict[str, tuple[str, bytes]]:
    params = library.llama_model_quantize_default_params()
    params.ftype, params.nthread = int(file_number(quant)), 2
    assert library.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params)) == 0
    return read(target)


@pytest.mark.parametrize(
    "size",
    [(256, 256, 1, 4, 4), (256, 256, 8, 8, 2), (256, 288, 1, 4, 4), (64, 160, 1, 4, 4), (80, 100, 1, 4, 4)],
    ids=["whole-blocks", "shared-heads", "narrow-ffn", "narrow", "no-blocks"],
)
def test_every_quantisation_is_that_of_llama_cpp_to_the_byte_and_as_large_as_reckoned(
    size: tuple[int, ...], random_llama: Callable[..., Made], tmp_path: Path
) -> None:
    llama, spec = random_llama(*size)
    to_gguf(llama, spec, tmp_path / "F32.gguf", "F32")
    for quant in QUANTS:
        to_gguf(llama, spec, tmp_path / "ours.gguf", quant)
        ours, theirs = (
            read(tmp_path / "ours.gguf"),
            quantised_by_llama_cpp(tmp_path / "F32.gguf", tmp_path / "q", quant),
        )
        assert {name: kind for name, (kind, _) in ours.items()} == {name: kind for name, (kind, _) in theirs.items()}
        assert [name for name in ours if ours[name] != theirs[name]] == [], quant
        assert quantised_facts(llama.config, quant) == read_llm_facts(tmp_path / "ours.gguf"), quant


def test_tensors_whose_rows_do_not_fit_are_reported(random_llama: Callable[..., Made], tmp_path: Path) -> None:
    llama, spec = random_llama(256, 288, 2, 4, 4)
    widened = to_gguf(llama, spec, tmp_path / "llm.gguf", "Q4_K_M")
    assert widened == ("blk.0.ffn_down.weight", "blk.1.ffn_down.weight")


def test_q_and_k_rows_are_paired_and_all_else_is_kept(
    tiny: LlamaFolder, vicuna_spec: ModelSpec, tmp_path: Path
) -> None:
    to_gguf(tiny, vicuna_spec, tmp_path / "llm.gguf", "F32")
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "llm.gguf").tensors}
    config = tiny.config
    head = config.hidden_size // config.num_heads
    theirs = tiny.tensor("model.layers.1.self_attn.q_proj.weight").numpy()
    ours = tensors["blk.1.attn_q.weight"]
    for row in range(config.hidden_size):
        first, (pair, half) = row - row % head, divmod(row % head, 2)
        np.testing.assert_array_equal(ours[row], theirs[first + half * head // 2 + pair])
    for name, key in (
        ("output.weight", "lm_head.weight"),
        ("blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"),
    ):
        np.testing.assert_array_equal(tensors[name], tiny.tensor(key).numpy())


def test_shared_key_heads_are_permuted_by_themselves() -> None:
    weight = torch.arange(16.0).reshape(8, 2)
    assert permuted(weight, 2)[:, 0].tolist() == [0, 4, 2, 6, 8, 12, 10, 14]


def test_progress_counts_bytes_up_to_all(tiny: LlamaFolder, vicuna_spec: ModelSpec, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = tmp_path / "llm.gguf"
    to_gguf(tiny, vicuna_spec, path, "Q8_0", lambda done, total: seen.append((done, total)))
    done = [step for step, _ in seen]
    assert done == sorted(set(done))
    assert {total for _, total in seen} == {done[-1]}
    assert 0.9 * path.stat().st_size - 65536 < done[-1] < path.stat().st_size


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_threads_quantise_than_were_asked_for(
    threads: int, tiny: LlamaFolder, vicuna_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllama.export.to_gguf._CHUNK_WEIGHTS", 1)  # a row each
    seen = set[int]()

    def count(done: int, total: int) -> None:
        seen.add(sum(thread.name.startswith("quantise") for thread in threading.enumerate()))

    to_gguf(tiny, vicuna_spec, tmp_path / "llm.gguf", "Q8_0", count, threads)
    assert seen == {threads}


def test_the_file_says_what_it_is(random_llama: Callable[..., Made], vicuna_spec: ModelSpec, tmp_path: Path) -> None:
    llama, _ = random_llama(64, 96, 1, 4, 2)
    llama.config = replace(llama.config, rope_theta=5e5, rms_norm_eps=0.25, n_ctx_train=999)
    to_gguf(llama, vicuna_spec, tmp_path / "llm.gguf", "Q4_K_M")
    fields = {name: field.contents() for name, field in GGUFReader(tmp_path / "llm.gguf").fields.items()}
    config, vocabulary = llama.config, llama.vocabulary
    assert fields["general.name"] == vicuna_spec.name
    assert fields["general.license"] == vicuna_spec.license
    assert fields["general.source.url"] == vicuna_spec.source
    assert fields["general.file_type"] == file_number("Q4_K_M")
    assert fields["llama.context_length"] == config.n_ctx_train
    assert fields["llama.embedding_length"] == 64
    assert fields["llama.feed_forward_length"] == 96
    assert fields["llama.block_count"] == 1
    assert (fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]) == (4, 2)
    assert fields["llama.attention.layer_norm_rms_epsilon"] == config.rms_norm_eps
    assert fields["llama.rope.dimension_count"] == 16
    assert fields["llama.rope.freq_base"] == config.rope_theta
    assert fields["llama.vocab_size"] == config.vocab_size
    assert fields["tokenizer.ggml.scores"] == list(vocabulary.scores)
    assert fields["tokenizer.ggml.tokens"] == list(vocabulary.pieces)
    assert fields["tokenizer.ggml.token_type"] == list(vocabulary.types)
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]) == (
        vocabulary.bos,
        vocabulary.eos,
    )
    added = [fields[f"tokenizer.ggml.{name}"] for name in ("add_bos_token", "add_eos_token", "add_space_prefix")]
    assert added == [True, False, True]


@pytest.mark.parametrize(("dtype", "quant"), [(torch.float16, "F16"), (torch.bfloat16, "BF16")])
def test_half_precision_weights_pass_unchanged(
    dtype: torch.dtype, quant: str, tiny: LlamaFolder, vicuna_spec: ModelSpec, tiny_weights: Path, tmp_path: Path
) -> None:
    source = tiny_weights / vicuna_spec.files.llm.name
    folder = tmp_path / source.name
    folder.mkdir()
    for name in ("config.json", "tokenizer.model"):
        shutil.copyfile(source / name, folder / name)
    weights = {name: tiny.tensor(name).to(dtype) for name, _ in tensor_shapes(tiny.config)}
    save_file(weights, folder / "model.safetensors")
    to_gguf(open_llama(vicuna_spec, tmp_path), vicuna_spec, tmp_path / "llm.gguf", quant)
    stored = next(tensor for tensor in GGUFReader(tmp_path / "llm.gguf").tensors if tensor.name == "output.weight")
    assert stored.data.tobytes() == weights["lm_head.weight"].view(torch.int16).numpy().tobytes()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_or_quota_is_told_and_leaves_nothing(
    code: int, tiny: LlamaFolder, vicuna_spec: ModelSpec, tmp_path: Path
) -> None:
    def fill(done: int, total: int) -> None:
        raise OSError(code, os.strerror(code))

    told = re.escape(
        f"llm F16: no space left in {tmp_path}; free some and run the same command, finished parts are kept"
    )
    with pytest.raises(DiskFullError, match=f"^{told}$"), writing("llm F16", tmp_path):
        to_gguf(tiny, vicuna_spec, tmp_path / "llm.gguf", "F16", fill)
    assert list(tmp_path.iterdir()) == []
