from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from vllama.export.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, read_json, read_vocabulary
from vllama.runtime.errors import FileError, MissingFileError

SENTENCES = ["the cat sees the dog", "a dog hears the cat", "cats and dogs and cats", "### Human: see the dog"] * 4


@pytest.fixture(scope="session")
def tokenizer() -> Callable[..., bytes]:
    """A small SentencePiece model like that of LLaMA, with options changed."""

    def train(**options: Any) -> bytes:
        model = io.BytesIO()
        like_llama: dict[str, Any] = {
            "model_type": "bpe", "vocab_size": 300, "byte_fallback": True, "remove_extra_whitespaces": False,
            "normalization_rule_name": "identity", "hard_vocab_limit": False, "minloglevel": 9,
        }  # fmt: skip
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES), model_writer=model, **{**like_llama, **options}
        )
        return model.getvalue()

    return train


@pytest.fixture
def folder(tokenizer: Callable[..., bytes], tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.model").write_bytes(tokenizer())
    return tmp_path


def test_one_entry_per_row_and_rows_without_a_piece_are_unused(folder: Path) -> None:
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    count = len(pieces)
    vocabulary = read_vocabulary(folder, count + 2)
    assert len(vocabulary.pieces) == len(vocabulary.scores) == len(vocabulary.types) == count + 2
    assert vocabulary.pieces[:count] == tuple(pieces.id_to_piece(token) for token in range(count))
    assert vocabulary.types[:4] == (UNKNOWN, CONTROL, CONTROL, BYTE)
    assert NORMAL in vocabulary.types
    assert vocabulary.pieces[count:] == (f"<row {count}>", f"<row {count + 1}>")
    assert vocabulary.types[count:] == (UNUSED, UNUSED)
    assert (vocabulary.unk, vocabulary.bos, vocabulary.eos) == (0, 1, 2)
    assert vocabulary.sources == (folder / "tokenizer.model",)


def test_added_token_has_the_last_row_or_is_said_to_be_left_out(folder: Path) -> None:
    rows = len(read_vocabulary(folder, 1000).pieces)
    for token, last, notes in (
        (rows - 1, ("[PAD]", CONTROL), ()),
        (rows, (f"<row {rows - 1}>", UNUSED), (f"added token '[PAD]' with id {rows} is left out",)),
    ):
        (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": token}), "utf-8")
        vocabulary = read_vocabulary(folder, rows)
        assert (vocabulary.pieces[-1], vocabulary.types[-1]) == last
        assert vocabulary.notes == notes


def test_more_pieces_than_rows_are_refused_with_both_numbers(folder: Path) -> None:
    with pytest.raises(FileError, match=r"tokenizer\.model: it has \d+ pieces and the embedding 20 rows"):
        read_vocabulary(folder, 20)


@pytest.mark.parametrize(
    "options",
    [{"model_type": "unigram", "vocab_size": 280}, {"add_dummy_prefix": False}, {"remove_extra_whitespaces": True},
     {"bos_id": -1}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_tokenizer_that_is_not_like_that_of_llama_is_refused(
    options: dict[str, object], tokenizer: Callable[..., bytes], tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tokenizer(**options))
    with pytest.raises(FileError, match=r"tokenizer\.model: it is no tokenizer of a LLaMA"):
        read_vocabulary(tmp_path, 1000)


def test_tokenizer_that_cannot_write_the_stop_of_the_prompt_is_refused(
    folder: Path, tokenizer: Callable[..., bytes]
) -> None:
    read_vocabulary(folder, 1000).check_encodes("###")
    (folder / "tokenizer.model").write_bytes(tokenizer(byte_fallback=False, vocab_size=40))
    vocabulary = read_vocabulary(folder, 1000)
    vocabulary.check_encodes("</s>")
    vocabulary.check_encodes("###")
    with pytest.raises(FileError, match=r"tokenizer\.model: it cannot encode the stop string '\+\+\+'.*models\.toml"):
        vocabulary.check_encodes("+++")


def test_tokenizer_with_another_end_is_refused_where_the_prompt_ends_with_it(
    folder: Path, tokenizer: Callable[..., bytes]
) -> None:
    (folder / "tokenizer.model").write_bytes(tokenizer(eos_piece="<end>"))
    with pytest.raises(FileError, match=r"its end token is '<end>' and the prompt format ends answers with '</s>'"):
        read_vocabulary(folder, 1000).check_encodes("</s>")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", {"[PAD]": "many"}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "[PAD]"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"3": {}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": ["[PAD]"]}),
    ],
)
def test_added_tokens_that_make_no_sense_are_refused_by_file(name: str, content: object, folder: Path) -> None:
    (folder / name).write_text(json.dumps(content), "utf-8")
    with pytest.raises(FileError, match=rf"{name}: its added tokens are not readable"):
        read_vocabulary(folder, 1000)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "is a Git LFS pointer, not the file"),
        (b"\n <!DOCTYPE html><html>Sign in</html>", "is a web page in place of the file"),
        (b"", "is empty"),
    ],
)
def test_what_is_often_found_in_place_of_a_file_is_told(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(FileError, match=rf"tokenizer\.model: {reason}"):
        read_vocabulary(tmp_path, 1000)
    with pytest.raises(FileError, match=rf"config\.json: {reason}"):
        read_json(tmp_path / "config.json")


def test_json_is_an_object_or_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.json: there is no such file"):
        read_json(tmp_path / "none.json")
    for content, reason in (("[1]", "not a JSON object"), ("{", "not readable as JSON")):
        (tmp_path / "table.json").write_text(content, "utf-8")
        with pytest.raises(FileError, match=rf"table\.json: {reason}"):
            read_json(tmp_path / "table.json")
