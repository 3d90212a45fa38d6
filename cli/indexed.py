"""What `vllama index` saved: a table, one in full, and none."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllama.runtime import SpecError
from vllama.runtime.cache.catalogue import Entry, find_entries, list_entries, remove_entry, remove_traces
from vllama.runtime.times import clock

from .options import clean
from .say import shown

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per timeline.")]
_What = "A file, or an id of `vllama index ls`, or its first characters."


def ls(as_json: AsJson = False) -> None:
    """List what is saved, with what is wrong with it."""
    entries = list_entries()
    if as_json:
        for entry in entries:
            print(json.dumps(_row(entry), ensure_ascii=False))
        return
    if not entries:
        print("nothing is saved; `vllama index VIDEO...` does it", file=sys.stderr)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("id", "file", "model", "length", "fps", "frames", "sound", "size", "state"):
        right = column in ("length", "fps", "frames", "sound", "size")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "state")
    for entry in entries:
        about = entry.about
        of = (
            (about.path, about.model_name, clock(round(about.duration)), f"{about.fps:g}")
            if about
            else ("", "", "", "")
        )
        cells = (str(entry.frames), str(entry.clips), size_text(entry.bytes), _state(entry))
        table.add_row(*(Text(shown(clean(cell))) for cell in (entry.id[:8], *of, *cells)))  # names may look like markup
    Console(width=None if sys.stdout.isatty() else 200, soft_wrap=True).print(table)
    print(_total(entries), file=sys.stderr)


def show(what: Annotated[str, typer.Argument(metavar="PATH", help=_What)], as_json: AsJson = False) -> None:
    """Show all that is known of one file's timelines."""
    for entry in find_entries(what):
        row = _row(entry)
        if as_json:
            print(json.dumps(row, ensure_ascii=False))
            continue
        for name, value in row.items():
            print(f"{name:>12}  {shown(value)}")
        print()


def rm(
    what: Annotated[str | None, typer.Argument(metavar="PATH", help=_What)] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Delete all timelines, and all else that is kept of any video.")
    ] = False,
) -> None:
    """Delete saved timelines, and what else is kept of their videos, which stay."""
    if (what is None) != everything:
        raise SpecError("say which timeline: a file, an id of `vllama index ls`, or --all")
    entries = list_entries() if what is None else find_entries(what)
    if everything:
        remove_traces()
    for entry in entries:
        remove_entry(entry)
        print(f"deleted {entry.id} of {shown(entry.about.path) if entry.about else 'unknown origin'}")
    print(f"{_total(entries)} freed", file=sys.stderr)


def size_text(size: int) -> str:
    """Bytes as people read them."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _total(entries: Sequence[Entry]) -> str:
    plural = "s" * (len(entries) != 1)
    return f"{len(entries)} timeline{plural}, {size_text(sum(entry.bytes for entry in entries))}"


def _state(entry: Entry) -> str:
    return entry.state if entry.source in ("", "there") else f"{entry.state}; the file is {entry.source}"


def _row(entry: Entry) -> dict[str, object]:
    about = asdict(entry.about) if entry.about else {}
    order = (
        "path", "kind", "model_name", "duration", "length", "frame_rate", "sound", "samples", "fps", "wanted_fps",
        "file_bytes", "content", "model",
    )  # fmt: skip
    return {
        "id": entry.id,
        "state": entry.state,
        "source": entry.source,
        "frames": entry.frames,
        "shared": entry.shared,
        "clips": entry.clips,
        "chunks": entry.chunks,
        "bytes": entry.bytes,
        "folder": str(entry.folder),
        **{name: about[name] for name in order if name in about},
    }
