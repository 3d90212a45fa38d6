"""models.toml -> entries that are checked: the registry of models that ships with vllama, and a person's own."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .errors import MissingFileError, ModelNotFoundError, SpecError
from .spec import AudioEncoder, ModelSpec, Qformer, VisionEncoder
from .template import FIELDS, check_template

_PARTS = ("video", "audio", "llm", "prompt", "messages")
_MODEL_SPEC = TypeAdapter(ModelSpec)


def spec_from_dict(table: dict[str, Any], where: str) -> ModelSpec:
    """Check one whole entry.

    Raises:
        SpecError: a field is missing, unknown, or of the wrong type or range; names `where` and the field.
    """
    try:
        spec = _MODEL_SPEC.validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise SpecError(f"{where}: {field}: {first['msg']}, found {first['input']!r:.60}; fix the entry") from error
    except SpecError as error:
        raise SpecError(f"{where}: llm.sampling: {error}; fix the entry") from error
    _check_agreement(spec, where)
    _check_templates(spec, where)
    return spec


def spec_to_dict(spec: ModelSpec) -> dict[str, Any]:
    """The entry as JSON types; `spec_from_dict` reads it back."""
    table: dict[str, Any] = _MODEL_SPEC.dump_python(spec, mode="json", exclude_none=True)
    return table


def read_specs(extra: Path | None = None) -> dict[str, ModelSpec]:
    """All models: the registry that ships with vllama, then the entries of `extra`, which win.

    Raises:
        MissingFileError: `extra` is not there.
        SpecError: a file is not TOML, or an entry is wrong.
    """
    tables = [_read_toml(files("vllama").joinpath("models.toml").read_text("utf-8"), "models.toml")]
    if extra is not None:
        try:
            tables.append(_read_toml(extra.read_text("utf-8-sig"), str(extra)))
        except OSError as error:
            raise MissingFileError(f"{extra}: {error.strerror}; give a file with [models.NAME] entries") from error
        except UnicodeDecodeError as error:
            raise SpecError(f"{extra}: not a UTF-8 text; give a TOML file with [models.NAME] entries") from error
    parts: dict[str, dict[str, Any]] = {kind: {} for kind in _PARTS}
    entries: dict[str, Any] = {}
    for table in tables:
        for kind in _PARTS:
            parts[kind].update(table.get(kind, {}))
        entries.update(table.get("models", {}))
    return {name: spec_from_dict(_resolve(name, entry, parts), f"models.{name}") for name, entry in entries.items()}


def find_spec(name: str, extra: Path | None = None) -> ModelSpec:
    """The entry of that name.

    Raises:
        ModelNotFoundError: there is none.
    """
    specs = read_specs(extra)
    if name not in specs:
        raise ModelNotFoundError(f"no model is called {name!r}; known: {', '.join(sorted(specs))}")
    return specs[name]


def _read_toml(text: str, where: str) -> dict[str, Any]:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{where}: not TOML: {error}; fix the file") from error
    unknown = set(table) - {*_PARTS, "models"}
    if unknown:
        raise SpecError(f"{where}: unknown table {min(unknown)!r}; known: {', '.join((*_PARTS, 'models'))}")
    for name, value in table.items():
        if not isinstance(value, dict):
            raise SpecError(f"{where}: {name} is {value!r:.60}; write tables [{name}.NAME]")
    return table


def _resolve(name: str, entry: object, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Put the shared parts that an entry names in place of their names."""
    if not isinstance(entry, dict):
        raise SpecError(f"models.{name}: found {entry!r:.60}; write a table")
    table = {"name": name, **entry}
    for kind in _PARTS:
        part = table.get(kind)
        if isinstance(part, str):
            if part not in parts[kind]:
                raise SpecError(f"models.{name}: {kind} = {part!r} names no [{kind}.{part}]; add it or fix the name")
            table[kind] = parts[kind][part]
    return table


def _check_agreement(spec: ModelSpec, where: str) -> None:
    """Relations between fields that a type cannot state."""
    video, audio = spec.video, spec.audio
    wrong = None
    if video.image_size % video.encoder.patch_size:
        wrong = f"image_size {video.image_size} is not a multiple of patch_size {video.encoder.patch_size}"
    elif video.video_qformer.hidden_size != video.qformer.hidden_size:
        wrong = f"video_qformer.hidden_size {video.video_qformer.hidden_size} is not that of qformer"
    elif video.num_frames > video.video_qformer.max_frames:
        wrong = f"num_frames {video.num_frames} exceeds max_frames {video.video_qformer.max_frames}"
    elif audio and audio.num_clips > audio.audio_qformer.max_clips:
        wrong = f"num_clips {audio.num_clips} exceeds max_clips {audio.audio_qformer.max_clips}"
    elif audio and spec.files.al is None:
        wrong = "it has an audio part but no files.al"
    for part, width, heads in _widths(spec):
        if width % heads:
            wrong = f"{part}: hidden_size {width} is not a multiple of num_heads {heads}"
    if wrong:
        raise SpecError(f"{where}: {wrong}; fix the entry")


def _check_templates(spec: ModelSpec, where: str) -> None:
    for kind in FIELDS:
        try:
            check_template(kind, attrgetter(kind)(spec))
        except SpecError as error:
            raise SpecError(f"{where}: {error}") from error


def _widths(spec: ModelSpec) -> list[tuple[str, int, int]]:
    video, audio = spec.video, spec.audio
    parts: list[tuple[str, VisionEncoder | Qformer | AudioEncoder]] = [
        ("video.encoder", video.encoder),
        ("video.qformer", video.qformer),
        ("video.video_qformer", video.video_qformer),
    ]
    if audio:
        parts += [("audio.encoder", audio.encoder), ("audio.audio_qformer", audio.audio_qformer)]
    return [(name, part.hidden_size, part.num_heads) for name, part in parts]
