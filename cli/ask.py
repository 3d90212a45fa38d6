"""`vllama ask`: questions about one clip."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vllama.runtime import Engine, Sampling, SpecError

from .render import encoding_bar, evidence_line, print_json, print_stream, verifying_bar


def ask(
    clip: Annotated[Path, typer.Argument(help="A video, a sound file or a picture.")],
    question: Annotated[
        list[str] | None,
        typer.Argument(
            help="One question, or several in turn as one conversation; none or '-': a line each from stdin."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", envvar="VLLAMA_MODEL", help="A bundle: its name or its folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per question.")] = False,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0 takes the most likely token.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Keep the likeliest tokens up to this sum.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Keep this many likeliest tokens; 0 keeps all.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Repeat a drawn answer.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", "-n", min=1, help="Length of an answer.")] = None,
    ctx_size: Annotated[int | None, typer.Option("--ctx-size", "-c", min=1, help="Positions of the context.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", min=1, envvar="VLLAMA_THREADS", help="CPU threads.")
    ] = None,
    audio: Annotated[bool, typer.Option("--audio/--no-audio", help="Listen to the sound of the clip.")] = True,
    device: Annotated[str, typer.Option(envvar="VLLAMA_DEVICE", help="cpu or cuda, for the encoders.")] = "cpu",
) -> None:
    """Ask about a clip. The answer goes to stdout; what was seen and heard is said on stderr."""
    questions = list(_questions(question or ["-"]))
    with verifying_bar() as verifying:
        engine = Engine.open(model, device=device, threads=threads, n_ctx=ctx_size, progress=verifying)
    with engine:
        sampling = _sampling(engine.spec.llm.sampling, temperature, top_p, top_k, max_tokens)
        with encoding_bar() as encoding:
            timeline = engine.index(clip, fps=0.0, audio=audio, progress=encoding)
        chat = engine.chat(timeline, audio=audio)
        for text in questions:
            deltas = chat.ask(text, sampling=sampling, seed=seed)
            if as_json:
                print_json(text, deltas)
            else:
                usage = print_stream(deltas)
                print(evidence_line(usage, timeline, engine.spec, audio=audio), file=sys.stderr)


def _questions(given: list[str]) -> Iterator[str]:
    for text in given:
        if text != "-":
            yield text
        elif sys.stdin.isatty():
            raise SpecError("no question was given; write one after the clip, or pipe a line each into stdin")
        else:
            lines = [line.strip() for line in sys.stdin if line.strip()]
            if not lines:
                raise SpecError("stdin holds no question; pipe a line each")
            yield from lines


def _sampling(
    defaults: Sampling, temperature: float | None, top_p: float | None, top_k: int | None, max_tokens: int | None
) -> Sampling:
    if top_p == 0.0:
        raise SpecError("--top-p is 0, which keeps no token; use a value above 0, or --temperature 0")
    chosen = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_tokens": max_tokens}
    return replace(defaults, **{name: value for name, value in chosen.items() if value is not None})  # type: ignore[arg-type]
