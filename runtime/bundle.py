"""An exported model on disk: where it is, and whether it is whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path

from platformdirs import user_cache_path, user_data_path
from safetensors import SafetensorError
from safetensors.numpy import load_file

from .errors import ChecksumError, FileError, MissingFileError, ModelNotFoundError
from .files import check_permission, write_whole
from .llm.llama_context import Kv, check_model
from .manifest import MANIFEST, EngineRecord, FileRecord, Manifest, hash_file, read_manifest
from .precision import feature_dtype
from .progress import Progress, counted
from .registry import read_specs, spec_from_dict, spec_to_dict
from .spec import ModelSpec
from .types import Float32

POSITIONS = "positions.safetensors"
SHIPPED = "miniature"


@dataclass(frozen=True)
class Bundle:
    """A bundle and what its manifest says of it; `open_bundle` gives one whose files were verified."""

    folder: Path
    manifest: Manifest
    spec: ModelSpec

    @property
    def llm(self) -> Path:
        """The GGUF file."""
        return self.folder / self.manifest.llm

    @property
    def kv(self) -> Kv:
        """How the KV cache is stored where nothing is said."""
        return usual_kv(self.spec, self.manifest.precision["llm"])

    @property
    def feature_dtype(self) -> str:
        """How features are kept."""
        return feature_dtype(self.manifest.precision["frames"])

    @property
    def encoders_hash(self) -> str:
        """What features depend on: features made under another hash must not be mixed with ours."""
        return self._hash("frames.", "clips.")

    @property
    def video_hash(self) -> str:
        """What the embeds of frame features depend on beside `encoders_hash`."""
        return self._hash("video.", "positions.")

    def _hash(self, *starts: str) -> str:
        names = sorted(name for name in self.manifest.files if name.startswith(starts))
        text = "\n".join(f"{name} {self.manifest.files[name].sha256}" for name in names)
        spec = spec_to_dict(self.spec)
        return hashlib.sha256(f"{text}\n{json.dumps([spec['video'], spec.get('audio')])}".encode()).hexdigest()

    @property
    def graphs(self) -> tuple[str, ...]:
        """The names of its graphs."""
        return tuple(name.removesuffix(".onnx") for name in self.manifest.files if name.endswith(".onnx"))

    def graph_hash(self, graph: str) -> str:
        """A sha256 of a graph and its weights: what an engine is built from."""
        names = (f"{graph}.onnx", f"{graph}.onnx.data")
        hashes = [self.manifest.files[name].sha256 for name in names if name in self.manifest.files]
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()

    def path(self, name: str) -> Path:
        """Where a file of the bundle is."""
        return self.folder / name

    def positions(self) -> dict[str, Float32]:
        """The position tables: `video` (max_frames, hidden_size), `audio` (max_clips, output_size)."""
        try:
            return load_file(self.folder / POSITIONS)
        except (SafetensorError, OSError) as error:
            raise FileError(f"{self.folder / POSITIONS}: cannot be read ({error}); export the model again") from error


def usual_kv(spec: ModelSpec, quant: str) -> Kv:
    """How the KV cache is stored where nothing is said: an unquantised model keeps an unquantised cache."""
    return "f32" if quant == "F32" else spec.llm.kv or "f16"


def models_dir() -> Path:
    """Where bundles are kept: $VLLAMA_MODELS, else the user's data folder."""
    named = os.environ.get("VLLAMA_MODELS")
    return Path(named) if named else user_data_path("vllama") / "models"


def cache_dir() -> Path:
    """Where what can be made again is kept: $VLLAMA_CACHE, else the user's cache folder."""
    named = os.environ.get("VLLAMA_CACHE")
    return Path(named) if named else user_cache_path("vllama")


def find_bundle(model: str | Path | None = None) -> Path:
    """The folder of a bundle.

    Args:
        model: its folder, or its name under `models_dir()`, or "miniature", which ships with vllama; None: the only one
            in `models_dir()`, or the miniature where there is none.

    Raises:
        ModelNotFoundError: there is no such bundle, or more than one and none was named.
        FileError: the system does not let it be looked for.
    """
    if model is None:
        found = _kept_bundles()
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ModelNotFoundError(f"no model was named and there are {names}; name one with --model")
        return found[0] if found else shipped_bundle()
    folders = (Path(model), models_dir() / model)
    for folder in folders:
        if os.path.isfile(folder / MANIFEST):
            return folder
    if str(model) == SHIPPED:
        return shipped_bundle()
    for folder in folders:
        check_permission(folder / MANIFEST)
    raise ModelNotFoundError(f"no bundle {str(model)!r} here or in {models_dir()}; {_instead(str(model))}")


def _instead(model: str) -> str:
    if model in read_specs():
        return f"make it: `vllama export {model} --weights DIR`"
    there = ", ".join([SHIPPED, *(path.name for path in _kept_bundles())])
    return f"there are {there}; `vllama export` makes those that models.toml names"


def _kept_bundles() -> list[Path]:
    folder = models_dir()
    try:
        there = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise FileError(f"{folder}: is not a folder; set VLLAMA_MODELS to one, or name a bundle by --model") from error
    except OSError as error:
        raise FileError(f"{folder}: {error.strerror}; check its permissions, or name a bundle with --model") from error
    for path in there:
        check_permission(path / MANIFEST)
    return [path for path in there if os.path.isfile(path / MANIFEST)]


def shipped_bundle() -> Path:
    """The folder of the miniature.

    Raises:
        ModelNotFoundError: this vllama was built without it.
    """
    folder = Path(str(package_files("vllama.runtime").joinpath(SHIPPED)))
    if not os.path.isfile(folder / MANIFEST):
        raise ModelNotFoundError("this vllama was built without its miniature; name a bundle with --model")
    return folder


def open_bundle(folder: Path, progress: Callable[[int, int], None] | None = None) -> Bundle:
    """Read the manifest and verify every file: sizes always, sha256 when a file is new or was changed.

    Args:
        progress: called with (bytes hashed, bytes to hash).

    Raises:
        FileError, MissingFileError: as `read_bundle`.
        ChecksumError: a file is not the one that the manifest lists.
        BackendUnavailableError: llama-cpp-python, which looks through the language model then, cannot be loaded.
    """
    bundle = _read(folder)
    _verify_files(bundle, bundle.manifest.files, _again(bundle), progress)
    return bundle


def read_bundle(folder: Path) -> Bundle:
    """What a bundle says of itself; its files are there in their sizes, and their contents are not looked at.

    Raises:
        FileError: the manifest is not one, or of another version.
        MissingFileError: a file that it lists is not there.
        ChecksumError: a file has another size than it lists.
    """
    bundle = _read(folder)
    for name, record in bundle.manifest.files.items():
        _stamp(bundle, name, record, _again(bundle))
    return bundle


def _read(folder: Path) -> Bundle:
    manifest = read_manifest(folder)
    return Bundle(folder, manifest, spec_from_dict(manifest.spec, f"{folder / MANIFEST}: spec"))


def _again(bundle: Bundle) -> str:
    return f"export it again: `vllama export {bundle.manifest.model} --weights DIR`"


def verify_engines(bundle: Bundle, again: str) -> None:
    """Verify the engines of a bundle: sizes always, sha256 when one is new or was changed.

    Args:
        again: what to do where one is not whole.

    Raises:
        MissingFileError, ChecksumError: an engine is not the one that the manifest lists.
    """
    engines = {engine_name(graph): record for graph, record in bundle.manifest.engines.items()}
    _verify_files(bundle, engines, again)


def engine_name(graph: str) -> str:
    """The file of a graph's engine."""
    return f"{graph}.engine"


def _verify_files(
    bundle: Bundle, records: Mapping[str, FileRecord | EngineRecord], again: str, progress: Progress | None = None
) -> None:
    stamps = {name: _stamp(bundle, name, record, again) for name, record in records.items()}
    known = _read_stamps(bundle.folder)
    new = {name: record for name, record in records.items() if known.get(name) != stamps[name]}
    if new:
        _check_contents(bundle, new, again, progress)
        _write_stamps(bundle.folder, known | stamps)


def _stamp(bundle: Bundle, name: str, record: FileRecord | EngineRecord, again: str) -> str:
    """What says, as long as it stays the same, that a file of the right size need not be hashed again."""
    path, what = bundle.folder / name, f"{name} of {bundle.manifest.model}"
    check_permission(path)
    if not os.path.isfile(path):
        raise MissingFileError(f"{what}: not in {bundle.folder}; {again}")
    stat = path.stat()
    if stat.st_size != record.bytes:
        raise ChecksumError(f"{what}: has {stat.st_size} bytes, the manifest says {record.bytes}; {again}")
    return f"{stat.st_mtime_ns} {record.sha256}"


def _check_contents(
    bundle: Bundle, records: Mapping[str, FileRecord | EngineRecord], again: str, progress: Progress | None
) -> None:
    read = counted(progress, sum(record.bytes for record in records.values()))
    for name, record in records.items():
        found = hash_file(bundle.folder / name, read)
        if found.sha256 != record.sha256:
            raise ChecksumError(
                f"{name} of {bundle.manifest.model}: sha256 is {found.sha256[:8]}.., the manifest says "
                f"{record.sha256[:8]}..; {again}"
            )
        if name.endswith(".gguf"):
            check_model(bundle.folder / name)


def _stamps_path(folder: Path) -> Path:
    return cache_dir() / "verified" / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.json"


def _read_stamps(folder: Path) -> dict[str, str]:
    try:
        stamps: dict[str, str] = json.loads(_stamps_path(folder).read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # never verified here: everything is hashed
    return stamps


def _write_stamps(folder: Path, stamps: dict[str, str]) -> None:
    path = _stamps_path(folder)
    with suppress(OSError):  # a cache that cannot be written costs a hash at the next start, nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, [json.dumps(stamps).encode()])
