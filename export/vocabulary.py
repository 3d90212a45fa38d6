"""The tokenizer of an HF LLaMA folder: SentencePiece pieces, added tokens, rows without a piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from vllama.runtime.errors import FileError, MissingFileError

from .checkpoint import refuse_text

# Upstream adds both to the tokenizer and never to the weights; they mark where media go.
PLACEHOLDERS = ("<ImageHere>", "<AudioHere>")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # SentencePiece and GGUF number them alike
_BPE = 2
_BESIDE = ("added_tokens.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Vocabulary:
    """One entry per row of the embedding.

    pieces, scores, types: types are those of SentencePiece; an added token is a control token, which text never
    becomes. notes: what in the folder was not followed. sources: the files that were read.
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    bos: int
    eos: int
    unk: int
    notes: tuple[str, ...]
    sources: tuple[Path, ...]

    def check_encodes(self, stop: str) -> None:
        """Raise FileError where the model cannot write a string that has to end its answers."""
        path = self.sources[0]
        if stop == "</s>":
            if self.pieces[self.eos] != stop:
                raise FileError(
                    f"{path}: its end token is {self.pieces[self.eos]!r} and the prompt format ends answers with "
                    "'</s>'; use the weights that models.toml names"
                )
            return
        sentencepiece = SentencePieceProcessor(model_file=str(path))
        ids = sentencepiece.encode(stop)
        if self.unk in ids or stop not in sentencepiece.decode(ids):
            raise FileError(
                f"{path}: it cannot encode the stop string {stop!r} of the prompt format; use the weights that "
                "models.toml names"
            )


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of `folder`, as long as its embedding has rows.

    Args:
        rows: rows of the embedding; those without a piece get a name that no text becomes.

    Raises:
        MissingFileError: tokenizer.model is not there.
        FileError: it is no LLaMA tokenizer, or has more pieces than the embedding has rows.
    """
    path = folder / "tokenizer.model"
    model = _read_model(path)
    if len(model.pieces) > rows:
        raise FileError(f"{path}: it has {len(model.pieces)} pieces and the embedding {rows} rows; use one folder's")
    pieces = [piece.piece for piece in model.pieces]
    types = [piece.type for piece in model.pieces]
    scores = [piece.score for piece in model.pieces]
    sources = [file for name in _BESIDE if (file := folder / name).is_file()]
    added = _added_tokens(sources)
    notes = _odd_names(folder, bos=pieces[model.trainer_spec.bos_id], eos=pieces[model.trainer_spec.eos_id])
    for token, text in sorted(added.items()):
        if text in PLACEHOLDERS or (token < len(model.pieces) and text == pieces[token]):
            continue
        if not len(model.pieces) <= token < rows:
            notes.append(f"added token {text!r} with id {token} is left out")
    for token in range(len(model.pieces), rows):
        text = added.get(token, "")
        known = bool(text) and text not in PLACEHOLDERS
        pieces.append(text if known else f"<row {token}>")
        types.append(CONTROL if known else UNUSED)
        scores.append(0.0)
    trainer = model.trainer_spec
    return Vocabulary(
        pieces=tuple(pieces),
        scores=tuple(scores),
        types=tuple(types),
        bos=trainer.bos_id,
        eos=trainer.eos_id,
        unk=trainer.unk_id,
        notes=tuple(notes),
        sources=(path, *sources),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        MissingFileError, FileError: it is not there, or no JSON object.
    """
    try:
        refuse_text(path)
        table = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: there is no such file; fetch the whole folder") from error
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: not readable as JSON: {error}; fetch it again") from error
    if not isinstance(table, dict):
        raise FileError(f"{path}: not a JSON object; fetch it again")
    return table


def _read_model(path: Path) -> Any:
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        refuse_text(path)
        raw = path.read_bytes()
        SentencePieceProcessor(model_proto=raw)  # tells what cannot be parsed
        model.ParseFromString(raw)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path}: there is no such file; fetch the whole folder") from error
    except (OSError, RuntimeError) as error:
        raise FileError(f"{path}: not readable as a SentencePiece model: {error}; fetch it again") from error
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    ids = (trainer.bos_id, trainer.eos_id, trainer.unk_id)
    like_llama = trainer.model_type == _BPE and normalizer.add_dummy_prefix and not normalizer.remove_extra_whitespaces
    if not like_llama or not all(0 <= token < len(model.pieces) for token in ids):
        raise FileError(f"{path}: it is no tokenizer of a LLaMA; use the folder that models.toml names")
    return model


def _added_tokens(sources: list[Path]) -> dict[int, str]:
    """id -> text of the tokens that stand beside the SentencePiece model."""
    added: dict[int, str] = {}
    for path in sources:
        try:
            added |= dict(_ids_and_texts(path.name, read_json(path)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FileError(f"{path}: its added tokens are not readable: {error}; fetch it again") from error
    return added


def _odd_names(folder: Path, **pieces: str) -> list[str]:
    """Early conversions name start and end tokens that were not trained; the SentencePiece model knows better."""
    path = folder / "special_tokens_map.json"
    table = read_json(path) if path.is_file() else {}
    notes = []
    for name, piece in pieces.items():
        entry = table.get(f"{name}_token", piece)
        text = entry.get("content") if isinstance(entry, dict) else entry
        if text != piece:
            notes.append(f"{path.name} says {name}_token {text!r}; {piece!r} of tokenizer.model is used")
    return notes


def _ids_and_texts(name: str, table: dict[str, Any]) -> Iterator[tuple[int, str]]:
    if name == "added_tokens.json":
        yield from ((int(token), text) for text, token in table.items())
    else:
        yield from ((int(token), entry["content"]) for token, entry in table.get("added_tokens_decoder", {}).items())
