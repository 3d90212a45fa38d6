"""Raw bytes of an answer -> its text: UTF-8, stop strings, white space at the ends."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


def answer_text(raw: str, stop: Sequence[str], keep_after: str) -> str:
    """The text of a whole answer: cut at the first stop string, keep what follows the last mark, strip.

    Args:
        raw: everything that was generated.
        stop: strings that end an answer; the one completed first counts.
        keep_after: the mark; "" keeps all.

    Source: Video-LLaMA 64888c0, video_llama/conversation/conversation_video.py, Chat.answer.
    """
    found = _first_stop(raw, stop)
    text = raw if found is None else raw[:found]
    return (text.rsplit(keep_after, 1)[-1] if keep_after else text).strip()


class AnswerStream:
    """Shows an answer while it is made; all parts together are `answer_text` of the whole, without keep_after.

    stopped: a stop string was completed, however the tokens spelled it; what is pushed after it is ignored.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self.stopped = False
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._shown = False

    def push(self, piece: bytes) -> str:
        """Take the bytes of one token; returns the text that may be shown now, often ""."""
        return self._take(self._decoder.decode(piece))

    def finish(self) -> str:
        """The answer is over; returns the rest of its text."""
        text = self._take(self._decoder.decode(b"", final=True))
        return text if self.stopped else text + self._show(self._held)

    def _take(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        found = _first_stop(self._held, self._stop)
        if found is None:
            return self._show(self._held[: len(self._held) - _unfinished(self._held, self._stop)])
        self.stopped = True
        return self._show(self._held[:found])

    def _show(self, text: str) -> str:
        text = text.rstrip()  # blanks wait until something follows them
        self._held = self._held[len(text) :]
        if not self._shown:
            self._shown = bool(text)
            return text.lstrip()
        return text


def _first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop string begins that is completed first."""
    starts = [(start + len(mark), start) for mark in stop if mark and (start := text.find(mark)) >= 0]
    return min(starts)[1] if starts else None


def _unfinished(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of `text` that may yet become a stop string."""
    longest = max(map(len, stop), default=0)
    sizes = range(min(len(text), longest), 0, -1)
    return next((size for size in sizes if any(mark.startswith(text[-size:]) for mark in stop)), 0)
