"""`vllama eval`: how often the answers of a model are right, by kind of question, and what it needs for that."""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllama.runtime import (
    BackendUnavailableError,
    ContextOverflowError,
    Engine,
    FileError,
    MediaError,
    SpecError,
    Timeline,
    VllamaError,
)
from vllama.runtime.ablation import ABLATIONS
from vllama.runtime.errors import extra
from vllama.runtime.question_set import ALL, KnownAnswer, read_questions

from . import options
from .newfile import JsonLines
from .render import counting_bar

_AS_IT_IS = "as it is"
_DRAWN = ("mini", "foreign")
_CLIPS = 60
_Z = 1.96  # of a 95 % interval
Tally = dict[str, dict[str, list[bool]]]  # condition -> kind -> right or not


def evaluate(
    model: options.Model = None,
    questions: Annotated[
        str,
        typer.Option(
            "--set",
            help="A JSONL file of questions, or 'mini': the miniature's held-out world, or 'foreign': what is outside.",
        ),
    ] = "mini",
    clips: Annotated[
        int | None, typer.Option(min=2, help="How many clips of a set are drawn and asked about; default: 60.")
    ] = None,
    ablations: Annotated[bool, typer.Option("--ablations", help="Also ask with frames and sound taken away.")] = False,
    details: Annotated[
        Path | None, typer.Option(help="Write every answer to this new JSONL file, as it comes.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = "auto",
    kv: options.KvCache = None,
    device: options.Device = "auto",
    runner: options.Runner = "auto",
) -> None:
    """Ask a model questions whose answers are known; greedy, each question by itself."""
    lines = JsonLines(details) if details else None
    with (
        _questions(questions, clips) as asked,
        options.open_engine(model, device, runner, threads, gpu_layers, kv) as engine,
    ):
        run = _asked(engine, asked, [*ABLATIONS] if ablations else [], lines)
    tally = run.tally
    if as_json:
        figures = {
            condition: {kind: _figure(right) for kind, right in [*sorted(kinds.items()), (ALL, _all(kinds))] if right}
            for condition, kinds in tally.items()
        }
        row = {"model": engine.spec.name, "set": questions, "accuracy": figures, "not_answered": len(run.lost)}
        print(json.dumps(row))
    elif tally[_AS_IT_IS]:
        _print(engine.spec.name, tally)
    for error in [*run.lost.values()][:1]:
        says = f"{len(run.lost)} of {len(asked)} questions are not answered and in no figure; the first: {error}"
        raise type(error)(says) from error


@contextmanager
def _questions(name: str, clips: int | None) -> Iterator[list[KnownAnswer]]:
    if name not in _DRAWN and clips is not None:
        raise SpecError(f"--clips is of the sets that are drawn, and {name} is a file; leave it out")
    if name not in _DRAWN:
        yield read_questions(Path(name))
        return
    try:
        from vllama.export.mini import held_out  # draws with torch, for these sets only
    except ImportError as error:
        raise BackendUnavailableError(
            f"--set {name} draws its clips with torch ({error}); install {extra('export')}"
        ) from error
    write = held_out.write_set if name == "mini" else held_out.write_foreign_set
    # Windows deletes no file that is mapped, as the cache is while an error passes here.
    with tempfile.TemporaryDirectory(prefix="vllama-eval-", ignore_cleanup_errors=True) as folder:
        os.environ["VLLAMA_CACHE"] = folder  # nobody asks about these clips again
        with counting_bar("rendering") as step:
            rendered = write(Path(folder), clips or _CLIPS, step)
        yield read_questions(rendered)


def _asked(engine: Engine, asked: list[KnownAnswer], ablations: list[str], lines: JsonLines | None) -> _Run:
    run = _Run(engine, (_AS_IT_IS, *ablations), lines)
    count, rng = engine.spec.video.num_frames, Random(0)
    by_video = [(video, list(group)) for video, group in groupby(asked, key=lambda each: each.video)]
    other: Timeline | None = None
    with counting_bar("asking") as step:
        for number, (video, group) in enumerate(by_video):
            try:
                timeline = engine.index(video, fps=0.0)
            except (MediaError, FileError) as error:
                run.miss(group, error)
            else:
                if other is None and ablations:
                    other = _last_of(engine, [later for later, _ in by_video[number + 1 :] if later != video])
                for condition in run.conditions:
                    ablation = ABLATIONS.get(condition)
                    run.ask(
                        group, condition, ablation(timeline, other or timeline, count, rng) if ablation else timeline
                    )
                other = timeline
            step(number + 1, len(by_video))
    return run


class _Run:
    """What was answered so far, and what was not: one bad clip does not cost the others.

    lost: why, of each question that was not answered, be it in one condition: it counts in none, for conditions are
    compared by the same questions.
    """

    def __init__(self, engine: Engine, conditions: Iterable[str], lines: JsonLines | None) -> None:
        self.conditions = tuple(conditions)
        self.lost: dict[int, VllamaError] = {}  # by the question's `id`
        self._right: list[tuple[KnownAnswer, str, bool]] = []
        self._engine = engine
        self._sampling = replace(engine.spec.llm.sampling, temperature=0.0)
        self._lines = lines

    @property
    def tally(self) -> Tally:
        """What was right."""
        found: Tally = {condition: defaultdict(list) for condition in self.conditions}
        for each, condition, right in self._right:
            if id(each) not in self.lost:
                found[condition][each.kind].append(right)
        return found

    def ask(self, group: list[KnownAnswer], condition: str, timeline: Timeline) -> None:
        """Each by itself."""
        chat = self._engine.chat(timeline)
        for each in group:
            chat.clear()
            answer = None
            try:
                *_, last = chat.ask(each.question, sampling=self._sampling, seed=0)
                assert last.usage is not None
                answer = last.usage.answer
                self._right.append((each, condition, each.is_right(answer)))
            except ContextOverflowError as error:
                options.note(f"not answered: {each.question[:60]!r} ({error})")
                self.lost[id(each)] = error
            self._write(each, condition, answer)

    def miss(self, group: list[KnownAnswer], error: VllamaError) -> None:
        """None of them can be answered."""
        options.note(f"not answered: {len(group)} questions ({error})")
        for each in group:
            self.lost[id(each)] = error
            for condition in self.conditions:
                self._write(each, condition, None)

    def _write(self, each: KnownAnswer, condition: str, answer: str | None) -> None:
        if self._lines is None:
            return
        video = os.fsencode(each.video).decode("utf-8", "replace")  # a name may be bytes that are no text
        right = None if answer is None else each.is_right(answer)
        self._lines.append(
            {"video": video, "condition": condition, "kind": each.kind, "question": each.question, "answer": answer,
             "wanted": each.answer, "right": right}
        )  # fmt: skip


def _last_of(engine: Engine, videos: list[Path]) -> Timeline | None:
    """The last one that can be used, if any; of the others it is said when their turn comes."""
    for video in reversed(videos):
        with suppress(MediaError, FileError):
            return engine.index(video, fps=0.0)
    return None


def _all(kinds: dict[str, list[bool]]) -> list[bool]:
    return [hit for right in kinds.values() for hit in right]


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
    table = Table(title=Text(f"{model}: answers that are right"))
    table.add_column("kind")
    table.add_column("questions", justify="right")
    for condition in tally:
        table.add_column(condition, justify="right")
    for kind in [*sorted(tally[_AS_IT_IS]), ALL]:
        first, *others = [_all(found) if kind == ALL else found[kind] for found in tally.values()]
        low, high = interval(sum(first), len(first))
        says = f"{sum(first) / len(first):.1%} ({low:.0%}-{high:.0%})"
        cells = [f"{sum(cell) / len(cell):.1%}" if cell else "" for cell in others]
        table.add_row(Text(kind), str(len(first)), says, *cells)  # a kind may have brackets, which are no markup
    Console(width=None if sys.stdout.isatty() else 140).print(table)
