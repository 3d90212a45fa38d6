"""`vllama ask`: questions about one clip."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from vllama.runtime import FileError, Span, SpecError
from vllama.runtime.spec import ModelSpec
from vllama.runtime.times import make_span
from vllama.runtime.types import Long
from vllama.runtime.view import own_long

from . import options
from .newfile import JsonLines
from .record import Recorder
from .render import encoding_bar, evidence_line, print_json, print_stream


def ask(
    clip: Annotated[Path, typer.Argument(parser=options.clip, help="A video, a sound file or a picture.")],
    question: Annotated[
        list[str] | None,
        typer.Argument(
            help="One question, or several in turn as one conversation; none or '-': a line each from stdin."
        ),
    ] = None,
    model: options.Model = None,
    as_json: options.AsJson = False,
    start: options.From = None,
    end: options.To = None,
    last: options.Last = None,
    at: options.At = None,
    long: options.Long = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    ctx_size: options.CtxSize = None,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = "auto",
    kv: options.KvCache = None,
    audio: options.Audio = True,
    device: options.Device = "auto",
    runner: options.Runner = "auto",
    record: options.Record = None,
    keep_prefix: Annotated[
        bool, typer.Option("--keep-prefix", help="Keep the read media on disk: the next first token comes sooner.")
    ] = False,
) -> None:
    """Ask about a clip. The answer goes to stdout; what was seen and heard is said on stderr."""
    questions = list(_questions(question or ["-"]))
    span = make_span(start, end, last, at)
    drawing = options.SamplingOptions(temperature, top_p, top_k, max_tokens)
    lines = JsonLines(record) if record else None
    with options.open_engine(model, device, runner, threads, gpu_layers, kv, ctx_size) as engine:
        options.say_if_miniature(engine)
        sampling = drawing.over(engine.spec.llm.sampling)
        fps = _fps(span, long, engine.spec)
        with encoding_bar() as encoding:
            timeline = engine.index(clip, fps=fps, span=span, audio=audio, note=options.note, progress=encoding)
        chat = engine.chat(timeline, audio=audio)
        recorder = Recorder(lines, engine, clip, timeline, audio=audio) if lines else None
        if keep_prefix:
            try:
                chat.prepare(span, long=long, keep=True)
            except FileError as error:
                options.note(f"the read media are not kept: {error}")
        for text in questions:
            deltas = chat.ask(text, span, long=long, sampling=sampling, seed=seed)
            if as_json:
                usage = print_json(text, deltas)
            else:
                usage = print_stream(deltas)
                found = "; encoded before" * (timeline.encoded == 0)
                print(evidence_line(usage, timeline, engine.spec, audio=audio) + found, file=sys.stderr)
            if recorder:
                recorder.add(chat, text, span, long, sampling, usage)


def _fps(span: Span, long: Long | None, spec: ModelSpec) -> float:
    """Pictures per second that a question needs beside those of the original's rule."""
    if span.is_moment:
        return 1.0 if (long or own_long(spec)) == "memory" else 0.0
    return 0.0 if long in (None, "frames") else 1.0


def _questions(given: list[str]) -> Iterator[str]:
    for text in given:
        if text != "-":
            yield options.question(text)
        elif sys.stdin.isatty():
            raise SpecError("no question was given; write one after the clip, or pipe a line each into stdin")
        else:
            lines = [options.question(line.strip()) for line in sys.stdin if line.strip()]
            if not lines:
                raise SpecError("stdin holds no question; pipe a line each")
            yield from lines
