"""The templates of models.toml: which fields each has, checked before a prompt is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter

from .errors import SpecError

# The fields that each has once, and those that it may have. A system text is no template: its braces are its own.
FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "prompt.first": (("message",), ("system",)),
    "prompt.answer": (("answer",), ()),
    "prompt.next": (("message",), ()),
    "messages.message.video": (("video", "question"), ("num_frames", "seconds")),
    "messages.message.audio_video": (("audio", "video", "question"), ("num_frames", "seconds")),
    "messages.message.image": (("video", "question"), ("num_frames", "seconds")),
    "messages.message.audio": (("audio", "question"), ("num_frames", "seconds")),
    "messages.message.text": (("question",), ("num_frames", "seconds")),
}


def check_template(kind: str, text: str) -> None:
    """Make sure that a prompt can be made of it.

    Args:
        kind: one of `FIELDS`.

    Raises:
        SpecError: a field is unknown, missing, there twice, or after {question}; or a brace stands alone.
    """
    must, may = FIELDS[kind]
    if not _has_fields(text, must, may):
        once = f"{_braced(must)} once" + ", {question} as the last" * (len(must) > 1)
        others = f", and may have {_braced(may)}" if may else ""
        raise SpecError(f"{kind} is {text!r:.200}; write a template that has {once}{others}")


def _has_fields(text: str, must: Sequence[str], may: Sequence[str]) -> bool:
    try:
        fields = [field for _, field, _, _ in Formatter().parse(text) if field is not None]
    except ValueError:
        return False
    is_once = all(text.count(f"{{{field}}}") == 1 for field in {*must, *fields})
    return is_once and set(fields) <= {*must, *may} and "question" not in fields[:-1]


def _braced(names: Sequence[str]) -> str:
    return " and ".join(f"{{{name}}}" for name in names)
