"""What an answer was made of, in full, to be repeated: a JSON line of what was asked, then one per question."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError

from vllama.runtime import Chat, Engine, FileError, Sampling, Span, SpecError, Timeline, Usage
from vllama.runtime.engine import DENSEST_FPS
from vllama.runtime.llm.backbone import MAX_N_CTX
from vllama.runtime.llm.llama_context import Kv
from vllama.runtime.remembered import Remembered
from vllama.runtime.types import Long
from vllama.runtime.version import own_version

from .newfile import JsonLines

SCHEMA: Final = 4
_CHECKED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_AGAIN = "ask again with --record"
T = TypeVar("T")


def _span(seconds: tuple[float, float | None]) -> Span:
    start, end = seconds
    return Span(start, float("inf") if end is None else end)


def _is_span(seconds: tuple[float, float | None]) -> tuple[float, float | None]:
    try:
        _span(seconds)
    except SpecError as error:
        raise ValueError(str(error)) from error  # which pydantic tells with the field
    return seconds


@dataclass(frozen=True)
class There:
    """What a question could choose from, by which another timeline of the clip can be made to hold the same.

    frames: pictures, by number. copies: of those that have the features of a similar one, both numbers. clips: where
    the stretches of sound start, in seconds, but those of the whole-clip rule. remembered: a digest of the memory of
    the whole, if there was one.
    """

    __pydantic_config__ = _CHECKED
    frames: tuple[NonNegativeInt, ...]
    copies: tuple[tuple[NonNegativeInt, NonNegativeInt], ...]
    clips: tuple[float, ...]
    remembered: str | None


@dataclass(frozen=True)
class Head:
    """Of what and with what was asked.

    content: sha256 of the clip. fps: how densely it was encoded. kv, n_ctx, gpu_layers: as in `Engine`. there: what the
    first question could choose from.
    """

    __pydantic_config__ = _CHECKED
    schema: Literal[4]
    vllama: str
    model: str
    model_files: dict[str, str]
    clip: str
    content: str
    audio: bool
    fps: Annotated[float, Field(ge=0, le=DENSEST_FPS)]
    kv: Kv
    n_ctx: Annotated[int, Field(ge=2, le=MAX_N_CTX)]
    gpu_layers: NonNegativeInt
    device: str
    runner: str
    there: There


@dataclass(frozen=True)
class Row:
    """One question and its answer.

    came: what there was to choose from that was not there at the question before. span: from and to, None: the end;
    or None: the whole clip. asked_long, long: how to look at the span, as it was asked for and as it was done.
    """

    __pydantic_config__ = _CHECKED
    question: Annotated[str, Field(pattern=r"\S")]
    came: There | None
    span: Annotated[tuple[float, float | None], AfterValidator(_is_span)] | None
    asked_long: Long | None
    long: Long
    frame_times: tuple[float, ...]
    audio_spans: tuple[tuple[float, float], ...]
    prompt: tuple[int | str, ...]
    sampling: Sampling
    seed: Annotated[int, Field(ge=0, lt=2**32 - 1)]
    token_ids: tuple[int, ...]
    answer: str

    @property
    def where(self) -> Span:
        """What it was about."""
        return Span.whole() if self.span is None else _span(self.span)


@dataclass(frozen=True)
class Clear:
    """What was said until here was forgotten."""

    __pydantic_config__ = _CHECKED
    clear: Literal[True]


_TABLE = TypeAdapter(dict[str, Any])
_HEAD, _ROW, _CLEAR = TypeAdapter(Head), TypeAdapter(Row), TypeAdapter(Clear)


class Recorder:
    """Writes a record; the file is made with the first answer, so that there is none without."""

    def __init__(self, lines: JsonLines, engine: Engine, clip: Path, timeline: Timeline, *, audio: bool) -> None:
        self._lines = lines
        self._engine = engine
        self._clip = clip
        self._timeline = timeline
        self._audio = audio
        self._known: There | None = None  # None before the first answer
        self._ended = False

    def add(self, chat: Chat, question: str, span: Span, long: Long | None, sampling: Sampling, usage: Usage) -> None:
        """One answered question.

        Raises:
            FileError, DiskFullError: it cannot be written; the record ends before it.
        """
        there = _there(self._timeline)
        row = Row(
            question=question,
            came=None if self._known is None else _came(there, self._known),
            span=None if span == Span.whole() else (span.start, None if span.end == float("inf") else span.end),
            asked_long=long,
            long=usage.long,
            frame_times=usage.frame_times,
            audio_spans=usage.audio_spans,
            prompt=tuple(chat.last_prompt),
            sampling=sampling,
            seed=usage.seed,
            token_ids=usage.token_ids,
            answer=usage.answer,
        )
        self._append(*([self._head(there)] if self._known is None else []), row)
        self._known = there

    def clear(self) -> None:
        """What was said is forgotten.

        Raises:
            FileError, DiskFullError: that cannot be written; the record ends before it.
        """
        if self._known is not None:
            self._append(Clear(True))

    def end(self) -> None:
        """Write nothing more: what follows rests on something that no replay can repeat."""
        self._ended = True

    def _append(self, *rows: Head | Row | Clear) -> None:
        if self._ended:
            return
        try:
            self._lines.append(*map(asdict, rows))
        except FileError:
            self._ended = True  # one that lacks an answer cannot be repeated from there on
            raise

    def _head(self, there: There) -> Head:
        manifest, placement = self._engine.bundle.manifest, self._engine.placement
        return Head(
            schema=SCHEMA,
            vllama=own_version(),
            model=manifest.model,
            model_files={name: record.sha256 for name, record in sorted(manifest.files.items())},
            clip=os.fsencode(self._clip).decode("utf-8", "replace"),  # a name may be bytes that are no text
            content=self._timeline.content,
            audio=self._audio,
            fps=self._timeline.fps,
            kv=self._engine.kv,
            n_ctx=self._engine.n_ctx,
            gpu_layers=self._engine.gpu_layers,
            device=placement.device,
            runner=placement.runner,
            there=there,
        )


def digest(whole: Remembered | None) -> str | None:
    """By which a timeline's memory of the whole is known again."""
    return None if whole is None else hashlib.sha256(whole.embeds.tobytes()).hexdigest()[:16]


def read_record(path: Path) -> tuple[Head, list[Row | Clear]]:
    """What `Recorder` wrote.

    Raises:
        FileError: it is not there, is no record, or one that was edited or damaged; the line and the field are named.
    """
    try:
        lines = [(number, line) for number, line in enumerate(path.read_bytes().splitlines(), 1) if line.strip()]
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}; give a file that --record wrote") from error
    if not lines:
        raise FileError(f"{path}: is empty; give a file that --record wrote")
    head = _checked(_TABLE, path, *lines[0])
    if "model_files" not in head:
        raise FileError(f"{path}, line 1: does not say which model was asked; give a file that --record wrote")
    if head.get("schema") != SCHEMA:
        says = f"its schema is {head.get('schema', 1)!r}, this vllama reads {SCHEMA}"
        raise FileError(f"{path}: {says}; {_AGAIN}, or replay it with vllama {head.get('vllama')}")
    rows: list[Row | Clear] = []
    for number, line in lines[1:]:
        is_clear = "clear" in _checked(_TABLE, path, number, line)
        rows.append(_checked(_CLEAR, path, number, line) if is_clear else _checked(_ROW, path, number, line))
    if not any(isinstance(row, Row) for row in rows):
        raise FileError(f"{path}: holds no question; {_AGAIN}")
    return _checked(_HEAD, path, *lines[0]), rows


def _checked(kind: TypeAdapter[T], path: Path, number: int, line: bytes) -> T:
    try:
        return kind.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = "".join(f"{each}: " for each in [".".join(map(str, first["loc"]))] if each)
        value = "" if first["type"] in ("missing", "json_invalid") else f" ({first['input']!r:.40})"
        raise FileError(f"{path}, line {number}: {field}{first['msg']}{value}; {_AGAIN}, this was edited") from error
    except SpecError as error:
        raise FileError(f"{path}, line {number}: sampling: {error}; {_AGAIN}, this was edited") from error


def _there(timeline: Timeline) -> There:
    frames = timeline.frames_in()
    return There(
        frames=tuple(frame.index for frame in frames),
        copies=tuple((frame.index, frame.of) for frame in frames if frame.of is not None and not frame.equal),
        clips=tuple(clip.start for clip in timeline.clips_beside()),
        remembered=digest(timeline.remembered),
    )


def _came(there: There, known: There) -> There | None:
    """What is new, or has other features; nothing of a file is given up."""
    if there == known:
        return None
    changed = {number for number, _ in {*there.copies} ^ {*known.copies}}
    frames = {*there.frames} - {*known.frames} | changed
    return There(
        frames=tuple(sorted(frames)),
        copies=tuple(pair for pair in there.copies if pair[0] in frames),
        clips=tuple(sorted({*there.clips} - {*known.clips})),
        remembered=there.remembered,
    )
