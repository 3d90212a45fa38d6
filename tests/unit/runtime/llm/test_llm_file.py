from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from vllama.runtime.bundle import shipped_bundle
from vllama.runtime.errors import FileError, MissingFileError
from vllama.runtime.llm.llm_file import read_llm_facts


@pytest.fixture(scope="module")
def path() -> Path:
    return next(shipped_bundle().glob("*.gguf"))


def test_facts_are_those_that_another_reader_finds(path: Path) -> None:
    facts, reader = read_llm_facts(path), gguf.GGUFReader(path)
    size = {tensor.name: tensor.n_bytes for tensor in reader.tensors}
    assert facts.weights == sum(size.values())
    assert facts.embedding == size["token_embd.weight"]
    assert facts.output == size["output.weight"] + size["output_norm.weight"]
    for number, block in enumerate(facts.blocks):
        assert block == sum(each for name, each in size.items() if name.startswith(f"blk.{number}."))
    read = {name: field.contents() for name, field in reader.fields.items()}
    assert len(facts.blocks) == read["llama.block_count"]
    assert facts.n_vocab == read["llama.vocab_size"]
    assert facts.hidden_size == read["llama.embedding_length"]
    assert facts.num_heads == read["llama.attention.head_count"]
    assert facts.head_size == read["llama.rope.dimension_count"]


def test_a_matrix_that_is_used_twice_counts_twice(tmp_path: Path) -> None:
    path = tmp_path / "tied.gguf"
    write_llama(path, ("token_embd.weight", "output_norm.weight", "blk.0.attn_q.weight"))
    facts = read_llm_facts(path)
    assert (facts.embedding, facts.output, facts.blocks) == (4 * 64, 4 * 64 + 4 * 64, (4 * 64,))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: b"",
        lambda raw: raw[:1000],
        lambda raw: bytes(range(256)) * 20,
        lambda raw: raw[:4] + struct.pack("<I", 99) + raw[8:],
        lambda raw: raw[:16] + b"\xff" * 8 + raw[24:],
        lambda raw: raw.replace(b"llama.block_count", b"llama.blocks_xxxx"),
        lambda raw: raw.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwen2", 1),
        lambda raw: raw.replace(b"token_embd", b"token_EMBD"),
        lambda raw: spoilt(raw, b"llama.attention.head_count", struct.pack("<II", 4, 0)),
        lambda raw: spoilt(raw, b"tokenizer.ggml.tokens", struct.pack("<IIQ", 9, 8, 1 << 63)),
    ],
    ids=["empty", "cut", "garbage", "version", "endless", "no-count", "qwen2", "no-tokens", "no-heads", "endless-list"],
)
def test_what_is_no_llama_is_said_in_one_line(spoil: object, path: Path, tmp_path: Path) -> None:
    assert callable(spoil)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(FileError, match=r"broken\.gguf: not the GGUF file of a LLaMA \(.+\); export") as caught:
        read_llm_facts(broken)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.gguf"):
        read_llm_facts(tmp_path / "none.gguf")


def spoilt(raw: bytes, name: bytes, value: bytes) -> bytes:
    """With another type and value for what is called so."""
    start = raw.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
    return raw[:start] + value + raw[start + len(value) :]


def write_llama(path: Path, names: tuple[str, ...]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(8)
    writer.add_head_count(2)
    writer.add_vocab_size(8)
    for name in names:
        writer.add_tensor(name, np.zeros((8, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
