"""`vllama replay`: the same questions again, and whether the same tokens come out."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from vllama.runtime import Chat, Engine, FileError, ModelNotFoundError, Span, Timeline, Usage
from vllama.runtime.bundle import find_bundle
from vllama.runtime.cache.content import identify, remember
from vllama.runtime.media import probe
from vllama.runtime.remembered import Remembered
from vllama.runtime.timeline import ClipFeature, FrameFeature

from . import options
from .record import Clear, Head, Row, There, digest, read_record
from .render import encoding_bar


def replay(
    record: Annotated[Path, typer.Argument(help="A file that --record wrote.")],
    clip: Annotated[Path | None, typer.Option(help="The clip, where it has moved.")] = None,
    # Without the variables of `ask`: what suits a person's machine is no reason to leave the recorded model and place.
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The bundle, where it has another name; default: the recorded.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="For the encoders: cpu, cuda, cuda:N or auto; default: the recorded one.")
    ] = None,
    runner: Annotated[
        str | None,
        typer.Option("--engine", help="For the encoders: onnx, tensorrt or auto; default: the recorded one."),
    ] = None,
    gpu_layers: Annotated[
        Any,
        typer.Option(
            "--gpu-layers",
            metavar="auto|N|all",
            parser=options.gpu_layers,
            help="How much of the language model is on the GPU; default: as recorded.",
        ),
    ] = None,
    threads: options.Threads = None,
) -> None:
    """Ask what a record asked, and say whether each answer is the same, token for token. Exit code 1 if one is not."""
    head, rows = read_record(record)
    path = clip or Path(head.clip)
    content = identify(path)
    if content.sha256 != head.content:
        other = "give the recorded one" if clip else "give that with --clip"
        raise FileError(f"{path}: not the recorded clip, its contents differ; {other}")
    remember(content)
    place = (device or head.device, runner or ("auto" if device else head.runner))
    layers = head.gpu_layers if gpu_layers is None else gpu_layers
    with options.open_engine(model or _recorded(head.model), *place, threads, layers, head.kv, head.n_ctx) as engine:
        _check_model(engine, head)
        if moved := _moved(engine, head):
            options.note(f"{'; '.join(moved)}: answers may differ")
        same = _all_repeated(engine, _indexed(engine, path, head, rows), head, rows)
    if not all(same):
        raise typer.Exit(1)


def _recorded(model: str) -> str:
    """A bundle of that name; else the person's own, whose files are compared with the recorded ones anyway."""
    try:
        find_bundle(model)
    except ModelNotFoundError as error:
        if own := os.environ.get("VLLAMA_MODEL"):
            return own
        raise ModelNotFoundError(f"{error}; or give the recorded bundle's folder with --model") from error
    return model


def _check_model(engine: Engine, head: Head) -> None:
    files = {name: entry.sha256 for name, entry in engine.bundle.manifest.files.items()}
    for name in sorted(files.keys() | head.model_files.keys()):
        if files.get(name) != head.model_files.get(name):
            raise FileError(f"{engine.bundle.folder}: {name} is not the recorded one; export the recorded model")


def _moved(engine: Engine, head: Head) -> list[str]:
    """What runs elsewhere than it did."""
    moved = []
    here, there = (engine.placement.device, engine.placement.runner), (head.device, head.runner)
    if here != there:
        moved.append(f"encoded on {' with '.join(here)}, recorded on {' with '.join(there)}")
    if engine.gpu_layers != head.gpu_layers:
        moved.append(f"answered with {engine.gpu_layers} layers on the GPU, recorded with {head.gpu_layers}")
    return moved


def _indexed(engine: Engine, path: Path, head: Head, rows: Sequence[Row | Clear]) -> Timeline:
    """All that the recorded questions asked to be encoded, and whatever else there is of the clip."""
    note = functools.cache(options.note)
    with encoding_bar() as encoding:
        timeline = engine.index(path, fps=head.fps, audio=head.audio, note=note, progress=encoding)
        asked = dict.fromkeys((row.where, row.long == "memory") for row in rows if isinstance(row, Row))
        for span, led in asked:
            fps = 1.0 if span.is_moment and led else 0.0  # as `ask` has it encoded
            engine.index(path, fps=fps, span=span, audio=head.audio, timeline=timeline, note=note, progress=encoding)
        # Where more was encoded since, the rules may have been content with other pictures than the recorded ones.
        there = [head.there, *(row.came for row in rows if isinstance(row, Row) and row.came)]
        lacking = {number for each in there for number in _find(each, timeline).lacking}
        times = probe(path).frame_times if lacking else ()
        for time in (float(times[number]) for number in sorted(lacking) if number < len(times)):
            alone = Span(time, math.nextafter(time, math.inf))
            engine.index(path, fps=0.0, span=alone, audio=False, timeline=timeline, note=note, progress=encoding)
    return timeline


@dataclass(frozen=True)
class _Found:
    """What is here of what a record says there was.

    lacking: pictures by number, that are not or have other features. missing: how many pictures and stretches of sound.
    """

    frames: list[FrameFeature]
    clips: list[ClipFeature]
    remembered: Remembered | None
    lacking: set[int]
    missing: int


def _find(there: There, timeline: Timeline) -> _Found:
    frames, lacking, copies = [], set(), dict(there.copies)
    for number in there.frames:
        source = copies.get(number, number)
        frame, shown = timeline.frame(number), timeline.frame(source)
        if frame is not None and shown is not None and shown.equal:
            frames.append(replace(frame, features=shown.features))
        else:
            lacking |= {number, source}
    beside = {clip.start: clip for clip in timeline.clips_beside()}
    clips = [beside[start] for start in there.clips if start in beside]
    missing = len(there.frames) - len(frames) + len(there.clips) - len(clips)
    is_same = digest(timeline.remembered) == there.remembered
    return _Found(frames, clips, timeline.remembered if is_same else None, lacking, missing)


def _all_repeated(engine: Engine, timeline: Timeline, head: Head, rows: Sequence[Row | Clear]) -> list[bool]:
    """Each question, of what was there when it was asked: others may have asked about the clip since."""
    came = {number: _find(row.came, timeline) for number, row in enumerate(rows) if isinstance(row, Row) and row.came}
    first = _find(head.there, timeline)
    missing = sum(found.missing for found in (first, *came.values()))
    if missing:
        options.note(f"{missing} of the recorded pictures and stretches of sound are not here: answers may differ")
    seen = timeline.emptied()
    seen.replace_whole_clips(timeline.whole_clips)
    _show(first, seen)
    chat = engine.chat(seen, audio=head.audio)
    same = []
    for number, row in enumerate(rows):
        if isinstance(row, Clear):
            chat.clear()
            continue
        if number in came:
            _show(came[number], seen)
        same.append(_repeated(chat, row))
    return same


def _show(found: _Found, seen: Timeline) -> None:
    for frame in found.frames:
        seen.add_frame(frame)
    for clip in found.clips:
        seen.add_clip(clip)
    seen.remembered = found.remembered


def _repeated(chat: Chat, row: Row) -> bool:
    usage: Usage | None = None
    for delta in chat.ask(row.question, row.where, long=row.long, sampling=row.sampling, seed=row.seed):
        usage = delta.usage or usage
    assert usage is not None
    print(usage.answer, flush=True)
    is_same = chat.last_prompt == list(row.prompt)
    if usage.token_ids == row.token_ids:
        print(f"same: {len(usage.token_ids)} tokens{'' if is_same else '; the prompt differs'}", file=sys.stderr)
        return True
    pairs = enumerate(zip(usage.token_ids, row.token_ids, strict=False))
    place = next((i for i, (found, wanted) in pairs if found != wanted), min(len(usage.token_ids), len(row.token_ids)))
    prompt = "the prompt is the same" if is_same else "the prompt differs too"
    print(f"differs from token {place} of {len(row.token_ids)} on; {prompt}", file=sys.stderr)
    return False
