from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from vllama.export.llama import open_llama
from vllama.export.to_gguf import to_gguf
from vllama.runtime.errors import FileError
from vllama.runtime.llm.llama_context import LlamaContext, LlmSettings
from vllama.runtime.llm.token_table import TokenTable
from vllama.runtime.spec import ModelSpec

SHAPE = (512, 64)
IDS = np.array([1, 300, 301, 7, 301, 511], np.int32)


@pytest.fixture(scope="module", params=["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"])
def path(
    request: pytest.FixtureRequest, vicuna_spec: ModelSpec, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("llm") / "llm.gguf"
    to_gguf(open_llama(vicuna_spec, tiny_weights), vicuna_spec, path, request.param)
    return path


def test_rows_are_those_of_another_reader(path: Path) -> None:
    tensor = next(each for each in gguf.GGUFReader(path).tensors if each.name == "token_embd.weight")
    wanted = gguf.dequantize(tensor.data, tensor.tensor_type)
    table = TokenTable(path, *SHAPE)
    np.testing.assert_allclose(table.embeds(IDS), wanted[IDS], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "block_bytes", "scales"), [("Q4_K", 144, slice(0, 4)), ("Q6_K", 210, slice(208, 210))]
)
def test_rows_in_blocks_of_256_are_those_of_another_reader(
    kind: str, block_bytes: int, scales: slice, tmp_path: Path
) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (16, 2, block_bytes), np.uint8)
    raw[..., scales] = np.full(2, 0.01, np.float16).view(np.uint8)[: raw[..., scales].shape[-1]]
    raw, quantised = raw.reshape(16, -1), gguf.GGMLQuantizationType[kind]
    path = tmp_path / "llm.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(512)
    writer.add_head_count(4)
    writer.add_vocab_size(16)
    writer.add_tensor("output_norm.weight", np.ones(512, np.float32))
    writer.add_tensor("token_embd.weight", raw, raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ids = np.array([3, 15, 0], np.int32)
    wanted = gguf.dequantize(raw, quantised)[ids]
    np.testing.assert_allclose(TokenTable(path, 16, 512).embeds(ids), wanted, rtol=1e-5, atol=1e-6)


def test_tokens_as_embeds_are_read_as_tokens_are(path: Path) -> None:
    context = LlamaContext(path, 64, LlmSettings(1, kv="f32"), threading.Event())
    tokens = context.decode(IDS, wanted=True)
    context.truncate(0)
    embeds = context.decode(context.embeds(IDS), wanted=True)
    context.close()
    assert tokens is not None
    np.testing.assert_array_equal(embeds, tokens)


def test_a_table_of_another_shape_is_refused(path: Path) -> None:
    with pytest.raises(
        FileError, match=r"llm\.gguf: its token table is not 999999 rows of 256; export the model again"
    ):
        TokenTable(path, 999_999, 256)


def test_a_file_that_was_cut_or_is_gone_is_said(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "llm.gguf"
    copy.write_bytes(path.read_bytes())
    table = TokenTable(copy, *SHAPE)
    faults: tuple[Callable[[], None], ...] = (lambda: os.truncate(copy, 4096), copy.unlink)
    for spoil in faults:
        spoil()
        with pytest.raises(FileError, match=r"llm\.gguf: cannot be read any more"):
            table.embeds(IDS)
