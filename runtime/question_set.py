"""Questions with known answers, in a file: one JSON object a line.

    {"video": "clips/1.mp4", "question": "What colour is it?", "answer": "red", "kind": "colour"}

`video` is a path from the file's own folder. `kind` groups the figures; without one it is "unnamed". An answer is right
when it says every word of `key` and none of `rivals`; without `key` the words of `answer` are the key.
"""

from __future__ import annotations

import codecs
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from .errors import FileError, MissingFileError

ALL = "all"  # the name of all kinds together


@dataclass(frozen=True)
class KnownAnswer:
    """One question, and the words that make an answer right."""

    video: Path
    question: str
    answer: str
    kind: str
    key: frozenset[str]
    rivals: frozenset[str]

    def is_right(self, answer: str) -> bool:
        """Whether it says every word of the key and none of the rivals; case and punctuation do not matter."""
        said = words(answer)
        return self.key <= said and not self.rivals & said


def words(text: str) -> frozenset[str]:
    """The words of a text in lower case, without punctuation."""
    return frozenset(re.findall(r"\w+", text.lower()))


def _kind(kind: str) -> str:
    if kind == ALL:
        raise ValueError("that is what all kinds together are called, use another word")
    return kind


def _saying(text: str) -> str:
    if not words(text):
        raise ValueError("there is no word in it, and so any answer would be right")
    return text


def _one_word(text: str) -> str:
    if words(text) != {text.lower()}:
        raise ValueError("each entry must be one word, which an answer says or not")
    return text.lower()


_Word = Annotated[str, AfterValidator(_one_word)]


@dataclass(frozen=True)
class _Row:
    """A line of the file."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")  # a slip in a name would change the figures
    video: str
    question: Annotated[str, Field(pattern=r"\S")]
    answer: Annotated[str, AfterValidator(_saying)]
    kind: Annotated[str, Field(pattern=r"\S"), AfterValidator(_kind)] = "unnamed"
    key: Annotated[frozenset[_Word], Field(min_length=1)] | None = None
    rivals: frozenset[_Word] = frozenset()


_ROW = TypeAdapter(_Row)


def read_questions(path: Path) -> list[KnownAnswer]:
    """The questions of a file.

    Raises:
        MissingFileError: it, or a clip that it names, is not there.
        FileError: a line is not such an object; named by its number.
    """
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise MissingFileError(f"{path}: {error.strerror}; give a JSONL file of questions") from error
    found = [_read(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise FileError(f"{path}: holds no question; write one JSON object a line")
    for video in dict.fromkeys(each.video for each in found):
        if not os.path.isfile(video):
            raise MissingFileError(f"{path}: {video} is not there; paths count from the folder of the file")
    return found


def _read(line: bytes, path: Path, number: int) -> KnownAnswer:
    try:
        row = _ROW.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        what = f"{where} ({first['input']!r:.60}): {first['msg']}" if where else first["msg"]
        raise FileError(
            f"{path}, line {number}: {what}; its fields are video, question and answer, and kind, key and rivals"
        ) from error
    key = words(row.answer) if row.key is None else row.key
    return KnownAnswer(path.parent / row.video, row.question, row.answer, row.kind, key, row.rivals)
