"""What an export made of a model: the manifest of its bundle, and the sizes and hashes that it lists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from .errors import FileError, MissingFileError
from .files import write_whole

MANIFEST = "manifest.json"
SCHEMA = 1
_CHUNK = 1 << 22


@dataclass(frozen=True)
class FileRecord:
    """One file: its size and the sha256 of its bytes."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    bytes: int
    sha256: str


@dataclass(frozen=True)
class EngineRecord:
    """A TensorRT engine beside the graph that it was built from; it can be built again, so a bundle is whole without.

    onnx: `Bundle.graph_hash` of that graph. library, version: what built it, and alone can run it. targets: the compute
    capabilities that it was built for, as "8.9".
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    bytes: int
    sha256: str
    onnx: str
    library: str
    version: str
    targets: tuple[str, ...]


@dataclass(frozen=True)
class FidelityRow:
    """What exporting one part cost.

    A graph: max_abs, relative (L2) and cosine against torch. The LLM: kl (mean, nats), same_top (rate of equal most
    likely tokens) and flips (answers that differ) of `prompts` against its unquantised self.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    part: str
    precision: str
    max_abs: float | None = None
    relative: float | None = None
    cosine: float | None = None
    kl: float | None = None
    same_top: float | None = None
    flips: int | None = None
    prompts: int | None = None


@dataclass(frozen=True)
class Manifest:
    """What an export made; models.toml says what the model is, `spec` is its entry at the time.

    widened: tensors that got a wider type than asked for. notes: what in the published files was not followed. engines:
    by graph.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    schema_version: int
    model: str
    license: str
    spec: dict[str, Any]
    llm: str
    sources: dict[str, FileRecord]
    files: dict[str, FileRecord]
    precision: dict[str, str]
    tools: dict[str, str]
    fidelity: tuple[FidelityRow, ...]
    widened: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())
    engines: dict[str, EngineRecord] = field(default_factory=dict)


_MANIFEST = TypeAdapter(Manifest)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, unverified against its files."""
    path = folder / MANIFEST
    try:
        table = json.loads(path.read_text("utf-8"))
        version = table["schema_version"]
        if version != SCHEMA:
            raise FileError(f"{path}: schema_version is {version}, this vllama reads {SCHEMA}; export the model again")
        manifest = _MANIFEST.validate_python(table)
        _check_manifest(manifest)
        return manifest
    except OSError as error:
        raise MissingFileError(f"{path}: {error.strerror}; `vllama export` makes it") from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        reason = " ".join(str(error).split())[:120]
        raise FileError(f"{path}: not a vllama manifest ({reason}); export the model again") from error


def _check_manifest(manifest: Manifest) -> None:
    lacks = [part for part in ("frames", "llm") if part not in manifest.precision]
    if lacks:
        raise ValueError(f"no precision of {lacks[0]}")
    if manifest.llm not in manifest.files:
        raise ValueError(f"llm is {manifest.llm!r}, which is not among its files")


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it, complete or not at all.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(folder / MANIFEST, [_MANIFEST.dump_json(manifest, indent=2) + b"\n"])


def hash_file(path: Path, step: Callable[[int], None] | None = None) -> FileRecord:
    """Size and sha256 of a file; step is called with the bytes of each piece read."""
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                if step:
                    step(len(chunk))
    except OSError as error:
        raise MissingFileError(f"{path}: {error.strerror}; check the path and its permissions") from error
    return FileRecord(size, digest.hexdigest())
