"""`vllama`, and `python -m vllama.cli`: what has to be in order before anything slow is loaded."""

from __future__ import annotations

import io
import os
import sys


def main() -> None:
    """Run the command; Ctrl-C ends it quietly from the first moment on."""
    try:
        _mend_streams()
        from .app import main as run  # most of the time until a command begins

        run()
    except KeyboardInterrupt:
        sys.exit(130)


def _mend_streams() -> None:
    """Each of the three is there, and none of them fails at a character.

    One that was closed (`<&-`) is None, and the next file that is opened would get its number, and what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)  # as those of a shell are
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text


if __name__ == "__main__":
    main()
