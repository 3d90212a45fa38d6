"""The `vllama` command: one Typer app, and what an error looks like to a person."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

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

from .ask import ask
from .chat import chat
from .demo import demo
from .devices import devices
from .eval import evaluate
from .export import export
from .index import index
from .replay import replay
from .watch import watch

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

app = typer.Typer(
    name="vllama",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Ask a video, its sound or a picture: Video-LLaMA, quantised, offline, on your own machine.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 model, 4 clip, 5 backend, 6 context full, 7 disk full, "
    "130 interrupted.",
)
app.command()(ask)
app.command()(chat)
app.command()(demo)
app.command()(devices)
app.command("eval")(evaluate)
app.command()(export)
app.add_typer(index)
app.command()(replay)
app.command()(watch)


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
        print(version("vllama"))
        raise typer.Exit
