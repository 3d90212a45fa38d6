"""The `vllama` command: one Typer app, and what an error looks like to a person."""

from __future__ import annotations

import errno
import math
import os
import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from vllama.runtime.errors import (
    BackendError,
    ContextOverflowError,
    DiskFullError,
    FileError,
    MediaError,
    ModelNotFoundError,
    SpecError,
    VllamaError,
)
from vllama.runtime.files import is_disk_full
from vllama.runtime.version import own_version

from .say import say

# The first that fits an error; docs/commands.md documents them.
_EXIT_CODES: tuple[tuple[type[VllamaError], int], ...] = (
    (DiskFullError, 7),
    (ModelNotFoundError, 3),
    (FileError, 3),
    (SpecError, 2),
    (MediaError, 4),
    (BackendError, 5),
    (ContextOverflowError, 6),
    (VllamaError, 1),
)

_UsageError: type[Exception] = typer.BadParameter.mro()[1]  # which typer has under no public name
_NO_OUTPUT = {errno.EIO, errno.EBADF, errno.EFBIG, errno.ECONNRESET}

# Each is the function, or the app, of the file of that name.
_COMMANDS = {
    "ask": "ask", "bench": "bench", "chat": "chat", "demo": "demo", "devices": "devices", "eval": "evaluate",
    "export": "export", "index": "index", "plan": "plan", "replay": "replay", "watch": "watch",
}  # fmt: skip


class _Commands(TyperGroup):
    """Loads a command's file when it is called: a question needs none of what a live chat or a bench does."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*_COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for name in [cmd_name] if cmd_name in _COMMANDS else _COMMANDS:  # all of them, to suggest one for a slip
            if name not in self.commands:
                self.add_command(_strict(_load(name)), name)
        return self.commands.get(cmd_name)


def _load(name: str) -> Any:
    found = getattr(import_module(f".{name}", __package__), _COMMANDS[name])
    if isinstance(found, typer.Typer):
        return typer.main.get_group(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)


def _strict(command: Any) -> Any:
    """Its options refuse what is not a finite number, which passes any `min`."""
    for each in (command, *getattr(command, "commands", {}).values()):
        for option in each.params:
            option.callback = option.callback or _finite
    return command


def _finite(ctx: Any, option: Any, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number", ctx=ctx, param=option)
    return value


app = typer.Typer(
    name="vllama",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Ask a video, its sound or a picture: Video-LLaMA, quantised, offline, on your own machine.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 model, 4 clip, 5 backend, 6 context full, 7 disk full, "
    "130 interrupted.",
)


def main() -> None:
    """Run the command; one line on stderr and an exit code for everything that vllama raises."""
    try:
        try:
            # Else on Windows each word, of questions too, would be a pattern of file names.
            code = app(prog_name="vllama", standalone_mode=False, windows_expand_args=False)
        finally:
            sys.stdout.flush()  # what fails when Python ends is a traceback
    except VllamaError as error:
        _fail(str(error), next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))
    except _UsageError as error:
        _fail(_usage(error), 2)
    except OSError as error:
        full, unread = is_disk_full(error), _is_unread(error)
        if error.filename is not None or not (full or unread or error.errno in _NO_OUTPUT):
            raise
        _discard(sys.stdout)
        if unread:
            sys.exit(1)
        advice = "free some space" if full else "send it elsewhere"
        _fail(f"the output cannot be written: {error.strerror}; {advice}", 7 if full else 1)
    sys.exit(code or 0)


def _is_unread(error: OSError) -> bool:
    """Whether who read the output has seen enough, which Windows calls an invalid argument."""
    return error.errno == errno.EPIPE or (sys.platform == "win32" and error.errno == errno.EINVAL)


def _fail(words: str, code: int) -> NoReturn:
    if words:
        try:
            say(words)
        except OSError:  # there is nowhere left to say it: the exit code does
            _discard(sys.stderr)
    sys.exit(code)


def _usage(error: Any) -> str:
    """What typer says, and the value, which its words may lack; nothing where it has printed the help itself."""
    words = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
    if not words:
        return ""
    if found := getattr(error.__cause__, "errors", None):  # pydantic's
        value = found()[0]["input"]
        words += f": {value!r}" * (repr(value) not in words)
    option = getattr(error, "option_name", "--")
    if not option.startswith("--"):
        given = next((word for word in sys.argv[1:] if word.startswith(option) and word != option), None)
        words += f" in {given}; a file of that name is ./{given}" * (given is not None)
    return f"{words}; see `{error.ctx.command_path if error.ctx else 'vllama'} --help`"


def _discard(stream: Any) -> None:
    """What it holds back is dropped; else Python would try again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=lambda on: _version(on), is_eager=True),
    ] = False,
) -> None:
    del show_version


def _version(on: bool) -> None:
    if on:
        print(own_version())
        raise typer.Exit
