"""`vllama replay`: the same questions again, and whether the same tokens come out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vllama.runtime import Chat, Engine, FileError, Sampling, Span, Usage

from . import options
from .record import read_record
from .render import encoding_bar, verifying_bar


def replay(
    record: Annotated[Path, typer.Argument(help="A file that --record wrote.")],
    clip: Annotated[Path | None, typer.Option(help="The clip, where it has moved.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", envvar="VLLAMA_MODEL", help="The bundle, where it has another name.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", min=1, envvar="VLLAMA_THREADS", help="CPU threads.")
    ] = None,
) -> None:
    """Ask what a record asked, and say whether each answer is the same, token for token. Exit code 1 if one is not."""
    head, rows = read_record(record)
    with verifying_bar() as verifying:
        engine = Engine.open(
            model or head["model"],
            device=head.get("device", "cpu"),
            runner=head.get("runner", "auto"),
            threads=threads,
            kv=head.get("kv"),
            progress=verifying,
        )
    with engine:
        files = {name: entry.sha256 for name, entry in engine.bundle.manifest.files.items()}
        changed = sorted(
            name
            for name in files.keys() | head["model_files"].keys()
            if files.get(name) != head["model_files"].get(name)
        )
        if changed:
            raise FileError(f"{engine.bundle.folder}: {changed[0]} is not the recorded one; export the recorded model")
        with encoding_bar() as encoding:
            timeline = engine.index(
                clip or Path(head["clip"]), fps=head["fps"], audio=head["audio"], note=options.note, progress=encoding
            )
            for span in {_span(row) for row in rows}:
                engine.index(clip or Path(head["clip"]), fps=0.0, span=span, audio=head["audio"], timeline=timeline)
        if timeline.content != head["content"]:
            raise FileError(f"{clip or head['clip']}: not the recorded clip, its contents differ; name it with --clip")
        chat = engine.chat(timeline, audio=head["audio"])
        same = [_repeated(chat, row) for row in rows]
    if not all(same):
        raise typer.Exit(1)


def _span(row: dict[str, Any]) -> Span:
    return Span.whole() if row["span"] is None else Span(*row["span"])


def _repeated(chat: Chat, row: dict[str, Any]) -> bool:
    usage: Usage | None = None
    for delta in chat.ask(
        row["question"], _span(row), long=row["long"], sampling=Sampling(**row["sampling"]), seed=row["seed"]
    ):
        usage = delta.usage or usage
    assert usage is not None
    print(usage.answer, flush=True)
    if list(usage.token_ids) == row["token_ids"]:
        print(f"same: {len(usage.token_ids)} tokens", file=sys.stderr)
        return True
    pairs = enumerate(zip(usage.token_ids, row["token_ids"], strict=False))
    place = next(
        (i for i, (found, wanted) in pairs if found != wanted), min(len(usage.token_ids), len(row["token_ids"]))
    )
    prompt = "the prompt is the same" if chat.last_prompt == row["prompt"] else "the prompt differs too"
    print(f"differs from token {place} of {len(row['token_ids'])} on; {prompt}", file=sys.stderr)
    return False
