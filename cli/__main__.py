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
    """Each of the three is there, none of them fails at a character, and pipes are UTF-8.

    One that was closed (`<&-`) is None, and the next file that is opened would get its number, and what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)  # as those of a shell are
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
    for name, errors in (("stdin", "replace"), ("stdout", "backslashreplace"), ("stderr", "backslashreplace")):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            encoding = _encoding(stream, reads=name == "stdin")
            stream.reconfigure(encoding=encoding, errors=errors)  # names of files may be no text


def _encoding(stream: io.TextIOWrapper, *, reads: bool) -> str | None:
    """UTF-8 for pipes and files on Windows, where Python takes the old code page, which JSON may not be in.

    What Windows' programs write into them begins with a mark, which is no part of what it says. None: as it is.
    """
    if stream.isatty():
        return None
    own = sys.platform == "win32" and not os.environ.get("PYTHONIOENCODING")
    is_utf8 = own or stream.encoding.lower().replace("_", "-") == "utf-8"
    return ("utf-8-sig" if reads else "utf-8") if is_utf8 else None


if __name__ == "__main__":
    main()
