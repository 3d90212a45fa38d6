"""Questions with known answers, in a file: one JSON object a line.

    {"video": "clips/1.mp4", "question": "What colour is it?", "answer": "red", "kind": "colour"}

`video` is a path from the file's own folder. `kind` groups the figures; without one all are "all". An answer is right
when it says every word of `key` and none of `rivals`; without `key` the words of `answer` are the key.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import FileError, MissingFileError


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


def read_questions(path: Path) -> list[KnownAnswer]:
    """The questions of a file.

    Raises:
        MissingFileError: it, or a clip that it names, is not there.
        FileError: a line is not such an object; named by its number.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise MissingFileError(f"{path}: {error.strerror}; give a JSONL file of questions") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not a UTF-8 text; give a JSONL file of questions") from error
    found = [_read(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise FileError(f"{path}: holds no question; write one JSON object a line")
    for each in found:
        if not each.video.is_file():
            raise MissingFileError(f"{path}: {each.video} is not there; paths count from the folder of the file")
    return found


def _read(line: str, path: Path, number: int) -> KnownAnswer:
    try:
        row = json.loads(line)
        texts = [row["video"], row["question"], row["answer"], row.get("kind", "all")]
        lists = [row.get("key", []), row.get("rivals", [])]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{path}, line {number}: not a question ({error}); it needs video, question, answer") from error
    if not all(isinstance(text, str) for text in [*texts, *(each for part in lists for each in part)]):
        raise FileError(f"{path}, line {number}: {line[:60]}: its values must be texts, key and rivals lists of texts")
    video, question, answer, kind = texts
    key = frozenset(each.lower() for each in lists[0]) or words(answer)
    return KnownAnswer(path.parent / video, question, answer, kind, key, frozenset(each.lower() for each in lists[1]))
