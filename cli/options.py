"""Options that several commands share, each written once."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vllama.runtime import Engine, Sampling, SpecError, view
from vllama.runtime.bundle import SHIPPED

Model = Annotated[
    str | None, typer.Option("--model", "-m", envvar="VLLAMA_MODEL", help="A bundle: its name or its folder.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per question.")]
Temperature = Annotated[float | None, typer.Option(min=0.0, help="0 takes the most likely token.")]
TopP = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Keep the likeliest tokens up to this sum.")]
TopK = Annotated[int | None, typer.Option(min=0, help="Keep this many likeliest tokens; 0 keeps all.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Repeat a drawn answer.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", "-n", min=1, help="Length of an answer.")]
CtxSize = Annotated[int | None, typer.Option("--ctx-size", "-c", min=1, help="Positions of the context.")]
Threads = Annotated[int | None, typer.Option("--threads", "-t", min=1, envvar="VLLAMA_THREADS", help="CPU threads.")]
Audio = Annotated[bool, typer.Option("--audio/--no-audio", help="Listen to the sound of the clip.")]
Device = Annotated[str, typer.Option(envvar="VLLAMA_DEVICE", help="cpu or cuda, for the encoders.")]
From = Annotated[str | None, typer.Option("--from", help="Ask about what follows this time: 62, 1:02, 1m2s.")]
To = Annotated[str | None, typer.Option("--to", help="Ask about what comes before this time.")]
Last = Annotated[str | None, typer.Option("--last", help="Ask about the end of the clip: 30s.")]
Long = Annotated[
    view.Long | None,
    typer.Option(
        "--long", help="How a span of many frames is looked at; default: frames where they cover it, else memory."
    ),
]
Record = Annotated[
    Path | None, typer.Option("--record", help="Write all that an answer was made of, for `vllama replay`.")
]


def sampling(
    defaults: Sampling, temperature: float | None, top_p: float | None, top_k: int | None, max_tokens: int | None
) -> Sampling:
    """The model's defaults with what the options say.

    Raises:
        SpecError: --top-p 0.
    """
    if top_p == 0.0:
        raise SpecError("--top-p is 0, which keeps no token; use a value above 0, or --temperature 0")
    return replace(
        defaults,
        temperature=defaults.temperature if temperature is None else temperature,
        top_p=defaults.top_p if top_p is None else top_p,
        top_k=defaults.top_k if top_k is None else top_k,
        max_tokens=defaults.max_tokens if max_tokens is None else max_tokens,
    )


def say_if_miniature(engine: Engine) -> None:
    """Say what the miniature is, to whoever expects more of it."""
    if engine.spec.name == SHIPPED:
        note("the miniature answers, which knows only coloured shapes and simple sounds; `vllama export` makes others")


def note(text: str) -> None:
    """What a person should know beside the answer, to stderr."""
    print(f"vllama: note: {' '.join(text.split())}", file=sys.stderr)
