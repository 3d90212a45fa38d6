"""What is said on one line, and the lines on stderr that begin with the program's name."""

from __future__ import annotations

import re
import sys

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # which a terminal would obey


def one_line(words: object) -> str:
    """The words on one line, whatever stands in them: a name of a file may have line breaks and worse."""
    return _CONTROL.sub("\ufffd", " ".join(str(words).split()))


def message(words: object) -> str:
    """One line that begins with the program's name."""
    return f"vllama: {one_line(words)}"


def say(words: object) -> None:
    """Such a line to stderr."""
    print(message(words), file=sys.stderr, flush=True)
