"""A text that comes piece by piece, cut into what is read aloud in one breath."""

from __future__ import annotations

import re

_MOST = 240  # characters: longer ones are cut at a comma, or between two words, so that reading begins early
# "3.5" and "e.g." in the middle of a word end nothing; Chinese sentences have no space behind their stop.
_END = re.compile(r"[.!?\u2026]+[\"')\]\u201d\u2019]*(?=\s)|[\u3002\uff01\uff1f]+|\n")
_BREAK = re.compile(r"[,;:\u2014\uff0c\uff1b](?=\s)|[\uff0c\uff1b\u3001]")


class Sentences:
    """Takes pieces of a text, gives its sentences."""

    def __init__(self) -> None:
        self._text = ""

    def push(self, text: str) -> list[str]:
        """The sentences that are whole with that."""
        self._text += text
        whole = []
        while end := self._end():
            whole.append(self._text[:end])
            self._text = self._text[end:]
        return [sentence.strip() for sentence in whole if _is_spoken(sentence)]

    def finish(self) -> list[str]:
        """The rest."""
        rest, self._text = self._text, ""
        return [rest.strip()] if _is_spoken(rest) else []

    def _end(self) -> int:
        """Where the first sentence ends; 0: not yet."""
        found = _END.search(self._text)
        if found is not None and found.end() <= _MOST:
            return found.end()
        if len(self._text) <= _MOST:
            return 0
        breaks = [found.end() for found in _BREAK.finditer(self._text, 0, _MOST)]
        return breaks[-1] if breaks else self._text.rfind(" ", 0, _MOST) + 1 or _MOST


def _is_spoken(sentence: str) -> bool:
    return any(letter.isalnum() for letter in sentence)
