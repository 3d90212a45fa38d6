"""The header of a GGUF file: the dimensions of its LLaMA and the bytes of its tensors, without loading any of them."""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import FileError, MissingFileError

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_BLOCK = re.compile(r"blk\.(\d+)\.")
Value = int | float | str
TOKEN_TABLE = "token_embd.weight"


class Tensor(NamedTuple):
    """Where a tensor is: its ggml type by number, its first byte in the file, and its bytes with their padding."""

    kind: int
    offset: int
    size: int


@dataclass(frozen=True)
class LlmFacts:
    """What the needs of a language model follow from, and nothing of its values.

    blocks: bytes of the weights of each layer, in order. embedding: bytes of the token table, which llama.cpp reads row
    by row and never moves to a GPU. output: bytes of the last norm and of the matrix that gives logits. largest: bytes
    of the largest of all tensors but the token table. head_size, num_kv_heads: of one position's K, and of its V.
    """

    n_vocab: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    blocks: tuple[int, ...]
    embedding: int
    output: int
    largest: int

    @property
    def weights(self) -> int:
        """Bytes of everything."""
        return sum(self.blocks) + self.embedding + self.output


def read_llm_facts(path: Path) -> LlmFacts:
    """The facts of a GGUF file.

    Raises:
        MissingFileError: it cannot be opened.
        FileError: it is no GGUF file, or not of a LLaMA.
    """
    return _read(path)[0]


def find_token_table(path: Path) -> Tensor:
    """Where the rows are that tokens go in as; raises as `read_llm_facts` does."""
    return _read(path)[1][TOKEN_TABLE]


def _read(path: Path) -> tuple[LlmFacts, dict[str, Tensor]]:
    """Source: the GGUF format, version 3, docs/gguf.md of ggml."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            about, tensors = _read_header(data)
        return _facts(about, {name: tensor.size for name, tensor in tensors.items()}), tensors
    except OSError as error:
        raise MissingFileError(f"{path}: {error.strerror}; export the model again") from error
    except (ValueError, KeyError, ArithmeticError, struct.error, IndexError) as error:
        raise FileError(f"{path}: not the GGUF file of a LLaMA ({error}); export the model again") from error


def _facts(about: dict[str, Value], tensors: dict[str, int]) -> LlmFacts:
    if about["general.architecture"] != "llama":
        raise ValueError(f"its architecture is {about['general.architecture']!r}")
    number = {name.removeprefix("llama."): value for name, value in about.items() if isinstance(value, int)}
    blocks = [0] * number["block_count"]
    for name, size in tensors.items():
        if found := _BLOCK.match(name):
            blocks[int(found[1])] += size
    embedding = tensors[TOKEN_TABLE]
    output = tensors["output_norm.weight"] + tensors.get("output.weight", embedding)  # tied: held twice on a GPU
    heads = number["attention.head_count"]
    return LlmFacts(
        n_vocab=number["vocab_size"],
        hidden_size=number["embedding_length"],
        num_heads=heads,
        num_kv_heads=number.get("attention.head_count_kv", heads),
        head_size=number["embedding_length"] // heads,
        blocks=tuple(blocks),
        embedding=embedding,
        output=output,
        largest=max(size for name, size in tensors.items() if name != TOKEN_TABLE),
    )


def _read_header(data: mmap.mmap) -> tuple[dict[str, Value], dict[str, Tensor]]:
    """Metadata but its arrays, and the tensors."""
    reader = _Reader(data)
    if data[:4] != b"GGUF":
        raise ValueError("it does not begin as one")
    version, tensor_count, about_count = reader.take("I"), reader.take("Q"), reader.take("Q")
    if version not in _VERSIONS:
        raise ValueError(f"its version is {version}")
    about: dict[str, Value] = {}
    for _ in range(int(about_count)):
        name = reader.text()
        value = reader.value(int(reader.take("I")))
        if value is not None:
            about[name] = value
    kinds: dict[str, int] = {}
    offsets: dict[str, int] = {}
    for _ in range(int(tensor_count)):
        name = reader.text()
        reader.skip(8 * int(reader.take("I")))  # its dimensions: where it ends is where the next begins
        kinds[name], offsets[name] = int(reader.take("I")), int(reader.take("Q"))
    alignment = int(about.get("general.alignment", 32))
    begin = -(-reader.position // alignment) * alignment
    ends = [*sorted(offsets.values())[1:], len(data) - begin]
    sizes = dict(zip(sorted(offsets, key=offsets.__getitem__), ends, strict=True))
    return about, {name: Tensor(kinds[name], begin + at, sizes[name] - at) for name, at in offsets.items()}


class _Reader:
    """Little-endian values from a place that moves on."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.position = 4

    def take(self, code: str) -> int | float:
        found: int | float = struct.unpack_from(f"<{code}", self._data, self.position)[0]
        self.position += struct.calcsize(code)
        return found

    def skip(self, size: int) -> None:
        self.position += size

    def text(self) -> str:
        size = int(self.take("Q"))
        self.skip(size)
        return self._data[self.position - size : self.position].decode("utf-8")

    def value(self, kind: int) -> Value | None:
        """A number or a text; arrays are passed over."""
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.take(_NUMBERS[kind])
        inner, count = int(self.take("I")), int(self.take("Q"))
        if inner in _NUMBERS:
            self.skip(count * struct.calcsize(_NUMBERS[inner]))
            return None
        for _ in range(count):
            self.value(inner)
        return None
