"""What is said on one line, and the lines on stderr that begin with the program's name."""

from __future__ import annotations

import re
import sys

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # which a terminal would obey


def shown(name: object) -> str:
    """A name of a file, on one line, as far as a terminal may be told it."""
    return _CONTROL.sub("\ufffd", str(name))


def message(words: object) -> str:
    """One line that begins with the program's name, whatever stands in the words."""
    return f"vllama: {shown(' '.join(str(words).split()))}"


def say(words: object) -> None:
    """Such a line to stderr."""
    print(message(words), file=sys.stderr, flush=True)
