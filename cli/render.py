"""What a person or a script sees: streamed answers, JSON lines, progress, tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import TransferSpeedColumn as SpeedColumn
from rich.table import Table
from rich.text import Text

from vllama.runtime import Delta, Timeline, Usage
from vllama.runtime.manifest import Manifest
from vllama.runtime.spec import ModelSpec
from vllama.runtime.times import clock

if TYPE_CHECKING:
    from vllama.export.meter import PartCost  # torch is loaded by `vllama export` only

Step = Callable[[int, int], None]
PartStep = Callable[[str, int, int], None]


def print_stream(deltas: Iterable[Delta]) -> Usage:
    """The answer to stdout as it is made."""
    usage = None
    for delta in deltas:
        sys.stdout.write(delta.text)
        sys.stdout.flush()
        usage = delta.usage or usage
    print()
    assert usage is not None
    return usage


def print_json(question: str, deltas: Iterable[Delta], **more: object) -> Usage:
    """One JSON object for the whole answer to stdout; more: fields beside those of `Usage`."""
    usage = next(delta.usage for delta in deltas if delta.usage)
    row = asdict(usage)
    print(json.dumps({"model": row.pop("model"), "question": question, **row, **more}, ensure_ascii=False), flush=True)
    return usage


def evidence_line(usage: Usage, timeline: Timeline, spec: ModelSpec, *, audio: bool) -> str:
    """What the answer rests on: which pictures and which seconds of sound, or why none; and what it does not."""
    return _evidence(usage, timeline, spec, audio=audio) + _remarks(usage)


def live_evidence_line(usage: Usage, spoken: Callable[[float], str]) -> str:
    """The same of a live source, in times of day; spoken: the time of day of a second."""
    parts = []
    if usage.frame_times:
        first, last = spoken(usage.frame_times[0]), spoken(usage.frame_times[-1])
        frames = f"{len(usage.frame_times)} frame{'s' * (len(usage.frame_times) > 1)}"
        seen = f"remembered {usage.frames_seen} frames as {frames}" if usage.long == "memory" else f"saw {frames}"
        parts.append(f"{seen}, {first} to {last}" if first != last else f"{seen} at {first}")
    else:
        parts.append("saw nothing")
    if usage.audio_spans:
        gaps = sum(after[0] > before[1] for before, after in pairwise(usage.audio_spans))
        pieces = f"{gaps + 1} stretches, " if gaps else ""
        parts.append(f"heard {pieces}{spoken(usage.audio_spans[0][0])} to {spoken(usage.audio_spans[-1][1])}")
    else:
        parts.append("heard nothing")
    return "; ".join(parts) + _remarks(usage)


def _remarks(usage: Usage) -> str:
    line = ""
    if usage.parts:
        asked = ", ".join(f"{clock(start)}-{clock(end)} {answer!r}" for start, end, answer in usage.parts)
        line += f"; from {len(usage.parts)} parts: {asked}"
    if usage.turns_left_out:
        line += f"; the first {usage.turns_left_out} turns no longer fit the context"
    if usage.finish == "context":
        line += "; the context is full, the answer was cut"
    return line


def _evidence(usage: Usage, timeline: Timeline, spec: ModelSpec, *, audio: bool) -> str:
    if timeline.kind == "image":
        seen = "saw the picture"
    elif usage.long == "memory":
        first, last = clock(usage.frame_times[0]), clock(usage.frame_times[-1])
        seen = f"remembered {usage.frames_seen} frames as {len(usage.frame_times)}, from {first} to {last}"
    elif usage.frame_times:
        times = " ".join(f"{time:.1f}" for time in usage.frame_times)
        seen = f"saw {len(usage.frame_times)} frame{'s' * (len(usage.frame_times) > 1)} at {times} s"
    else:
        seen = "saw nothing: a sound file"
    if usage.audio_spans:
        spans = dict.fromkeys(f"{start:.1f}-{end:.1f}" for start, end in usage.audio_spans)  # some read the same
        return f"{seen}; heard {' '.join(spans)} s"
    if timeline.kind == "image":
        return seen
    if not audio:
        reason = "--no-audio"
    elif not timeline.sound:
        reason = "the clip has no audio track"
    elif spec.audio is None:
        reason = f"{spec.name} has no audio branch"
    else:
        reason = "there is no sound in that stretch"
    return f"{seen}; heard nothing: {reason}"


def verifying_bar() -> AbstractContextManager[Step]:
    """Bytes of a bundle verified."""
    return _bar("verifying", DownloadColumn(), SpeedColumn())


class RateColumn(ProgressColumn):
    """How many per second."""

    def render(self, task: Task) -> Text:
        """Nothing until that is known."""
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


def encoding_bar() -> AbstractContextManager[Step]:
    """Pictures and stretches of sound encoded."""
    return counting_bar("encoding")


def counting_bar(label: str) -> AbstractContextManager[Step]:
    """So many of so many."""
    return _bar(label, MofNCompleteColumn(), RateColumn())


@contextmanager
def part_bars() -> Iterator[tuple[PartStep, Callable[[PartCost], None]]]:
    """A bar per part of an export: bytes, rate, time left; and, part by part, a line of what it took."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:>20}"),
        BarColumn(),
        DownloadColumn(),
        SpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {}

        def step(part: str, done: int, total: int) -> None:
            if part not in tasks:
                tasks[part] = bars.add_task(part, total=total)
            bars.update(tasks[part], completed=done, total=total)

        def report(cost: PartCost) -> None:
            memory = "" if cost.peak_bytes is None else f", at most {cost.peak_bytes / 1e9:.2f} GB of memory"
            seconds = f"{cost.seconds:.1f} s ({cost.cpu_seconds:.1f} s of CPU)"
            console.print(
                f"{cost.part}: {cost.bytes:,} bytes in {seconds}{memory}", highlight=False, markup=False, soft_wrap=True
            )

        yield step, report


def fidelity_table(manifest: Manifest) -> None:
    """What the export cost, part by part, to stdout."""
    table = Table(title=Text(f"{manifest.model}: fidelity to the original weights", "table.title"))
    for column in (
        "part",
        "precision",
        "max abs error",
        "relative",
        "cosine",
        "mean KL",
        "same top token",
        "flipped answers",
    ):
        table.add_column(column, justify="left" if column in ("part", "precision") else "right")
    for row in manifest.fidelity:
        flips = None if row.flips is None else f"{row.flips} of {row.prompts}"
        cells = (
            _number(row.max_abs, ".2e"),
            _number(row.relative, ".2e"),
            _number(row.cosine, ".6f"),
            _number(row.kl, ".2e"),
        )
        table.add_row(Text(row.part), Text(row.precision), *cells, _number(row.same_top, ".1%"), flips or "")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for note in manifest.widened:
        print(f"kept wider than asked: {note}")
    for note in manifest.notes:
        print(f"note: {note}")


@contextmanager
def _bar(label: str, *columns: ProgressColumn) -> Iterator[Step]:
    console = Console(stderr=True)
    shown = (TextColumn(label), BarColumn(), *columns, TimeRemainingColumn())
    with Progress(*shown, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(label, visible=False)  # where nothing is to be done, nothing is shown
        yield lambda done, total: bars.update(task, completed=done, total=total, visible=True)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
