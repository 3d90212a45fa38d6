"""`vllama demo`: the miniature answers questions about three clips that ship with it."""

from __future__ import annotations

import sys
from importlib.resources import as_file, files
from typing import Annotated

import typer
from rich.console import Console

from vllama.runtime import Engine, SpecError
from vllama.runtime.bundle import shipped_bundle
from vllama.runtime.media import probe, read_frames
from vllama.runtime.pixels import frame_indices

from .pictures import strip

_QUESTIONS = {
    "circle": ("What happens first?", "How many beeps do you hear?", "What does the star do?"),
    "square": ("What colour is the square?", "Does the sound rise or fall?", "What happens last?"),
    "cross": ("How many things are there?", "Which way does the cross move?", "What do you hear?"),
}
_FRAME_COLUMNS = 14
_ABOUT = (
    "The miniature is a Video-LLaMA of 5 million weights: it knows coloured shapes and simple sounds, and says so "
    "when it is shown anything else. `vllama export` makes the real ones."
)


def demo(
    clip: Annotated[str | None, typer.Argument(help=f"One of {', '.join(_QUESTIONS)}; default: all.")] = None,
) -> None:
    """Ask the miniature that ships with vllama about three clips: frames above, questions and answers below."""
    if clip is not None and clip not in _QUESTIONS:
        raise SpecError(f"there is no demo clip {clip!r}; use one of {', '.join(_QUESTIONS)}")
    console = Console()
    print(_ABOUT, file=sys.stderr)
    with Engine.open(shipped_bundle()) as engine:
        for name in [clip] if clip else _QUESTIONS:
            with as_file(files("vllama.cli").joinpath("demo_clips", f"{name}.mp4")) as path:
                info = probe(path)
                frames = list(read_frames(info, frame_indices(8, len(info.frame_times)), 56))
                console.print(strip(frames, _FRAME_COLUMNS))
                chat = engine.chat(engine.index(path, fps=0.0))
            for question in _QUESTIONS[name]:
                console.print(f"[bold]{question}[/bold] ", end="")
                for delta in chat.ask(question):
                    console.out(delta.text, end="", highlight=False)
                console.print()
            console.print()
