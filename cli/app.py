"""The `vllama` command: one Typer app, and what an error looks like to a person."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Annotated, Any

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

# The first that fits an error; README.md documents them.
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
                self.add_command(_load(name), name)
        return self.commands.get(cmd_name)


def _load(name: str) -> Any:
    found = getattr(import_module(f".{name}", __package__), _COMMANDS[name])
    if isinstance(found, typer.Typer):
        return typer.main.get_group(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)


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
        app()
    except VllamaError as error:
        line = " ".join(str(error).split())
        print(f"vllama: {line}", file=sys.stderr)
        sys.exit(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))


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
        from importlib.metadata import version  # slow to load

        print(version("vllama"))
        raise typer.Exit
