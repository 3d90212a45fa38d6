"""`vllama eval`: how often the answers of a model are right, by kind of question, and what it needs for that."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vllama.runtime import BackendUnavailableError, Engine, SpecError, Timeline
from vllama.runtime.ablation import ABLATIONS
from vllama.runtime.question_set import KnownAnswer, read_questions

from . import options
from .render import counting_bar

_AS_IT_IS = "as it is"
_Z = 1.96  # of a 95 % interval
Tally = dict[str, dict[str, list[bool]]]  # condition -> kind -> right or not


def evaluate(
    model: options.Model = None,
    questions: Annotated[
        str, typer.Option("--set", help="A JSONL file of questions, or 'mini': the miniature's held-out world.")
    ] = "mini",
    clips: Annotated[int, typer.Option(min=2, help="How many clips of 'mini' are rendered and asked about.")] = 60,
    ablations: Annotated[bool, typer.Option("--ablations", help="Also ask with frames and sound taken away.")] = False,
    details: Annotated[Path | None, typer.Option(help="Write every answer to this JSONL file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = "auto",
    kv: options.KvCache = None,
    device: options.Device = "auto",
    runner: options.Runner = "auto",
) -> None:
    """Ask a model questions whose answers are known; greedy, each question by itself."""
    with (
        _questions(questions, clips) as asked,
        options.open_engine(model, device, runner, threads, gpu_layers, kv) as engine,
    ):
        tally, rows = _asked(engine, asked, [*ABLATIONS] if ablations else [])
    if details:
        _write(details, rows)
    if as_json:
        figures = {
            condition: {kind: _figure(right) for kind, right in kinds.items()} for condition, kinds in tally.items()
        }
        print(json.dumps({"model": engine.spec.name, "set": questions, "accuracy": figures}))
    else:
        _print(engine.spec.name, tally)


@contextmanager
def _questions(name: str, clips: int) -> Iterator[list[KnownAnswer]]:
    if name != "mini":
        yield read_questions(Path(name))
        return
    try:
        from vllama.export.mini.held_out import write_set  # draws with torch, for this set only
    except ImportError as error:
        raise BackendUnavailableError(
            f"--set mini draws its clips with torch ({error}); install `vllama[export]`"
        ) from error
    with tempfile.TemporaryDirectory(prefix="vllama-eval-") as folder:
        os.environ["VLLAMA_CACHE"] = folder  # nobody asks about these clips again
        with counting_bar("rendering") as step:
            rendered = write_set(Path(folder), clips, step)
        yield read_questions(rendered)


def _asked(engine: Engine, asked: list[KnownAnswer], ablations: list[str]) -> tuple[Tally, list[dict[str, object]]]:
    greedy = replace(engine.spec.llm.sampling, temperature=0.0)
    count, rng = engine.spec.video.num_frames, Random(0)
    tally: Tally = {condition: defaultdict(list) for condition in (_AS_IT_IS, *ablations)}
    rows: list[dict[str, object]] = []
    by_video = [(video, list(group)) for video, group in groupby(asked, key=lambda each: each.video)]
    other: Timeline | None = None
    with counting_bar("asking") as step:
        for number, (video, group) in enumerate(by_video):
            timeline = engine.index(video, fps=0.0)
            if other is None:
                other = engine.index(by_video[-1][0], fps=0.0)
            for condition in tally:
                changed = timeline if condition == _AS_IT_IS else ABLATIONS[condition](timeline, other, count, rng)
                chat = engine.chat(changed)
                for each in group:
                    chat.clear()
                    *_, last = chat.ask(each.question, sampling=greedy, seed=0)
                    assert last.usage is not None
                    right = each.is_right(last.usage.answer)
                    tally[condition][each.kind].append(right)
                    rows.append(
                        {"video": str(video), "condition": condition, "kind": each.kind, "question": each.question,
                         "answer": last.usage.answer, "wanted": each.answer, "right": right}
                    )  # fmt: skip
            other = timeline
            step(number + 1, len(by_video))
    return tally, rows


def _figure(right: list[bool]) -> dict[str, float | int]:
    low, high = interval(sum(right), len(right))
    return {"questions": len(right), "accuracy": sum(right) / len(right), "low": low, "high": high}


def interval(hits: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a rate, after Wilson."""
    rate, z2 = hits / total, _Z * _Z
    centre = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(rate * (1 - rate) / total + z2 / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def _print(model: str, tally: Tally) -> None:
    table = Table(title=f"{model}: answers that are right")
    table.add_column("kind")
    table.add_column("questions", justify="right")
    for condition in tally:
        table.add_column(condition, justify="right")
    kinds = sorted(tally[_AS_IT_IS])
    for kind in [*kinds, "all"]:
        cells = [
            [hit for each in (kinds if kind == "all" else [kind]) for hit in found[each]] for found in tally.values()
        ]
        low, high = interval(sum(cells[0]), len(cells[0]))
        first = f"{sum(cells[0]) / len(cells[0]):.1%} ({low:.0%}-{high:.0%})"
        table.add_row(kind, str(len(cells[0])), first, *(f"{sum(cell) / len(cell):.1%}" for cell in cells[1:]))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    try:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}; give a file that can be written") from error
