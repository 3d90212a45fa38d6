"""`vllama index`: encode clips ahead of the questions; `ls`, `show` and `rm` tell what is saved."""

from __future__ import annotations

import glob
import json
import os
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vllama.runtime import MediaError, Timeline
from vllama.runtime.cache.catalogue import saved_bytes
from vllama.runtime.cache.saved import timeline_folder
from vllama.runtime.times import clock

from . import options
from .indexed import ls, rm, show, size_text
from .render import encoding_bar
from .say import say, shown

_MEDIA = {
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".wmv", ".asf", ".flv", ".f4v", ".mpg", ".mpeg",
    ".mod", ".tod", ".ts", ".mts", ".m2t", ".m2ts", ".lrv", ".h264", ".vob", ".mxf", ".3gp", ".3g2", ".ogv", ".gif",
    ".apng", ".wav", ".mp3", ".m4a", ".m4b", ".aac", ".ac3", ".flac", ".ogg", ".oga", ".opus", ".spx", ".mka", ".weba",
    ".wma", ".wv", ".au", ".aif", ".aiff", ".caf", ".amr", ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".heic",
    ".heif", ".bmp", ".ppm", ".tif", ".tiff",
}  # fmt: skip
_NAMED = 5  # skipped files that are named


class _PathsFirst(TyperGroup):
    """Where the first word is none of the commands, all words are those of `add`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["add", *args]
        return super().parse_args(ctx, args)


index = typer.Typer(
    name="index",
    cls=_PathsFirst,
    no_args_is_help=True,
    subcommand_metavar="VIDEO... | ls | show PATH | rm PATH",
    help="Encode videos, sound files, pictures or whole folders now, so that questions about them start at once. "
    "`vllama index VIDEO...` is short for `vllama index add VIDEO...`; a file named like a command is ./ls.",
)
index.command()(ls)
index.command()(show)
index.command()(rm)


@index.command()
def add(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="VIDEO...", parser=options.clip, help="Files, and folders with all in them."),
    ],
    fps: Annotated[float, typer.Option(min=0.0, help="Pictures per second; 0: only those of the whole clip.")] = 1.0,
    model: options.Model = None,
    threads: options.Threads = None,
    audio: options.Audio = True,
    device: options.Device = "auto",
    runner: options.Runner = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per file.")] = False,
) -> None:
    """Encode clips into the cache: what is there is not encoded again, and what was interrupted goes on."""
    clips, problems = _clips(paths)
    if len(problems) == 1 and not clips:
        raise problems[0]
    for problem in problems:
        say(problem)
    if not clips:
        raise typer.Exit(4)
    failed, total = len(problems), len(clips) + len(problems)
    with options.open_engine(model, device, runner, threads, answers=False) as engine:
        for clip in clips:
            started = time.perf_counter()
            try:
                with encoding_bar() as encoding:
                    timeline = engine.index(
                        clip, fps=fps, audio=audio, must_save=True, note=options.note, progress=encoding
                    )
            except MediaError as error:
                if total == 1:
                    raise
                say(error)
                failed += 1
            except KeyboardInterrupt:
                say(f"{clip}: stopped; what is encoded is kept, the same command goes on")
                raise typer.Exit(130) from None
            else:
                _report(clip, timeline, time.perf_counter() - started, as_json=as_json)
    if failed:
        what = "files and folders" if problems else "files"
        say(f"{failed} of {total} {what} could not be indexed")
        raise typer.Exit(4)


def _clips(paths: list[Path]) -> tuple[list[Path], list[MediaError]]:
    """Every file that is named, and all in the folders that is media by its name; and what is wrong with folders.

    A link that leads nowhere is media by its name, too: the runtime says what is wrong with it. Other files are said.
    """
    clips: list[Path] = []
    problems: list[MediaError] = []
    for path in chain.from_iterable(map(_matching, paths)):
        if not os.path.isdir(path):  # false also where it may not be looked at
            clips.append(path)
            continue
        files, unread = _files(path)
        media = [file for file in files if file.suffix.lower() in _MEDIA]
        skipped = [str(file.relative_to(path)) for file in files if file.suffix.lower() not in _MEDIA]
        if skipped:
            named = ", ".join(skipped[:_NAMED]) + ", .." * (len(skipped) > _NAMED)
            options.note(f"{path}: skipped {len(skipped)} that are no video, sound or picture by their names: {named}")
        if not media and not unread:
            problems.append(
                MediaError(f"{path}: holds no video, sound or picture; give another folder, or files by name")
            )
        problems += unread
        clips += media
    return clips, problems


def _matching(path: Path) -> list[Path]:
    """What a pattern stands for, on Windows, whose shells leave that to programs; else the path as it is."""
    pattern = str(path)
    if sys.platform != "win32" or os.path.exists(path) or not {"*", "?"} & {*pattern}:
        return [path]
    return [Path(found) for found in sorted(glob.glob(pattern.replace("[", "[[]")))] or [path]


def _files(folder: Path) -> tuple[list[Path], list[MediaError]]:
    """All in it and below it that is not hidden, links to folders followed; and the folders that cannot be read."""
    unread: list[OSError] = []
    files: list[Path] = []
    walked: set[str] = set()  # a link may lead back to where it lies
    for where, folders, names in os.walk(folder, onerror=unread.append, followlinks=True):
        real = os.path.realpath(where)
        if real in walked:
            folders.clear()
            continue
        walked.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(where, name) for name in names if not name.startswith(".")]
    words = "cannot be read ({}); give yourself the right to, or leave it out"
    return sorted(files), [MediaError(f"{each.filename}: {words.format(each.strerror)}") for each in unread]


def _report(clip: Path, timeline: Timeline, seconds: float, *, as_json: bool) -> None:
    folder = timeline_folder(timeline.content, timeline.model)
    size = saved_bytes(folder)
    if as_json:
        row = {
            "path": str(clip), "id": folder.name, "kind": timeline.kind, "duration": timeline.duration,
            "fps": timeline.fps, "frames": timeline.frame_count, "clips": timeline.clip_count,
            "encoded": timeline.encoded, "shared": timeline.shared, "seconds": seconds, "bytes": size,
        }  # fmt: skip
        print(json.dumps(row, ensure_ascii=False), flush=True)
        return
    name = shown(clip)
    have = f"{timeline.frame_count} frames, {timeline.clip_count} stretches of sound"
    what = f"{have} of {clock(round(timeline.duration))}, {size_text(size)}"
    if timeline.encoded or timeline.shared:
        rate = timeline.encoded / max(seconds, 1e-9)
        before = f", {timeline.shared} as before," if timeline.shared else ""
        print(f"{name}: {what}; {timeline.encoded} encoded{before} in {seconds:.1f} s ({rate:.1f}/s)", flush=True)
    else:
        print(f"{name}: {what}; was there", flush=True)
