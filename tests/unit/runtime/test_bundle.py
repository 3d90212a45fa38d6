from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.conftest import needs_links
from vllama.runtime.bundle import POSITIONS, Bundle, find_bundle, open_bundle, read_bundle, shipped_bundle
from vllama.runtime.errors import ChecksumError, FileError, MissingFileError, ModelNotFoundError
from vllama.runtime.manifest import Manifest, hash_file, read_manifest, write_manifest
from vllama.runtime.registry import spec_to_dict
from vllama.runtime.spec import ModelSpec


@pytest.fixture
def folder(vicuna_spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "bundle"
    folder.mkdir()
    save_file({"video": np.ones((2, 3), np.float32)}, folder / POSITIONS)
    (folder / "frames.onnx").write_bytes(b"graph")
    (folder / "llm").write_bytes(b"no GGUF, which would be looked through")
    files = {name: hash_file(folder / name) for name in (POSITIONS, "frames.onnx", "llm")}
    precision = {"frames": "fp32", "llm": "F32"}
    write_manifest(folder, Manifest(1, "m", "free", spec_to_dict(vicuna_spec), "llm", {}, files, precision, {}, ()))
    return folder


def test_whole_bundle_opens(folder: Path, vicuna_spec: ModelSpec) -> None:
    opened = open_bundle(folder)
    assert opened.spec == vicuna_spec
    np.testing.assert_array_equal(opened.positions()["video"], np.ones((2, 3)))


def test_files_are_hashed_once_and_again_when_changed(folder: Path) -> None:
    hashed: list[int] = []
    for _ in range(2):
        open_bundle(folder, lambda done, total: hashed.append(done))
    assert len(hashed) == 3  # each file, once
    os.utime(folder / "frames.onnx", ns=(1, 1))
    open_bundle(folder, lambda done, total: hashed.append(done))
    assert len(hashed) == 4
    (folder / "frames.onnx").write_bytes(b"grapf")
    with pytest.raises(ChecksumError, match=r"frames\.onnx of m"):
        open_bundle(folder)


@pytest.mark.parametrize("open_it", [open_bundle, read_bundle])
def test_a_file_that_is_not_there_or_cut_is_named(open_it: Callable[[Path], Bundle], folder: Path) -> None:
    again = "; export it again: `vllama export m --weights DIR`"
    (folder / "frames.onnx").write_bytes(b"gra")
    with pytest.raises(ChecksumError) as cut:
        open_it(folder)
    assert str(cut.value) == f"frames.onnx of m: has 3 bytes, the manifest says 5{again}"
    (folder / "frames.onnx").unlink()
    with pytest.raises(MissingFileError) as gone:
        open_it(folder)
    assert str(gone.value) == f"frames.onnx of m: not in {folder}{again}"


def test_read_only_cache_only_costs_the_hash(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "file"))
    open_bundle(folder)
    open_bundle(folder)


def test_encoders_hash_depends_on_graphs_and_preprocessing(folder: Path) -> None:
    before = open_bundle(folder).encoders_hash
    manifest = read_manifest(folder)
    table = json.loads((folder / "manifest.json").read_text())
    table["spec"]["video"]["normalise"]["mean"][0] += 0.1
    (folder / "manifest.json").write_text(json.dumps(table))
    changed_spec = open_bundle(folder).encoders_hash
    (folder / "frames.onnx").write_bytes(b"other")
    files = {**manifest.files, "frames.onnx": hash_file(folder / "frames.onnx")}
    write_manifest(folder, Manifest(**{**vars(manifest), "files": files}))
    assert len({before, changed_spec, open_bundle(folder).encoders_hash}) == 3


def test_bundle_is_found_by_folder_and_by_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_MODELS", str(tmp_path))
    assert find_bundle(folder) == folder
    assert find_bundle("bundle") == folder
    assert find_bundle() == folder
    with pytest.raises(ModelNotFoundError, match="there are miniature, bundle; `vllama export` makes"):
        find_bundle("other")


def test_a_language_model_is_looked_through_when_it_is_verified_and_never_again(folder: Path) -> None:
    whole = next(shipped_bundle().glob("*.gguf"))
    gguf = folder / "llm.gguf"
    gguf.write_bytes(whole.read_bytes())
    _list(folder, gguf)
    open_bundle(folder)
    stat = gguf.stat()
    _spoil(gguf, b"\xff\xff")
    os.utime(gguf, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # nothing shows that it was changed
    open_bundle(folder)


def test_weights_that_are_not_finite_are_refused_and_again_at_the_next_try(folder: Path) -> None:
    gguf = folder / "llm.gguf"
    gguf.write_bytes(next(shipped_bundle().glob("*.gguf")).read_bytes())
    _spoil(gguf, b"\xff\xff")
    _list(folder, gguf)
    for _ in range(2):
        with pytest.raises(FileError, match=r"llm\.gguf: llama\.cpp finds it damaged: .*; export the model again"):
            open_bundle(folder)


def _list(folder: Path, gguf: Path) -> None:
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, files={**manifest.files, gguf.name: hash_file(gguf)}))


def _spoil(gguf: Path, scale: bytes) -> None:
    """Make the scale of the last block of a Q8_0 matrix no number."""
    data = bytearray(gguf.read_bytes())
    data[-34:-32] = scale
    gguf.write_bytes(data)


def test_hashing_is_told_piece_by_piece(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllama.runtime.manifest._CHUNK", 16)
    told: list[tuple[int, int]] = []
    open_bundle(folder, lambda done, total: told.append((done, total)))
    total = sum(record.bytes for record in read_manifest(folder).files.values())
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (total, total)
    assert len(told) > total // 16


def test_place_of_models_that_is_a_file_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").touch()
    monkeypatch.setenv("VLLAMA_MODELS", str(tmp_path / "models"))
    with pytest.raises(FileError, match=r"models: is not a folder; set VLLAMA_MODELS to one"):
        find_bundle()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("video-llama-2-7b-chat", "make it: `vllama export video-llama-2-7b-chat --weights DIR`"),
        ("llama", "there are miniature, mine; `vllama export` makes those that models.toml names"),
    ],
)
def test_what_can_be_made_is_told_from_what_nobody_knows(
    name: str, instead: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    folder.rename(tmp_path / "models" / "mine")
    monkeypatch.setenv("VLLAMA_MODELS", str(tmp_path / "models"))
    with pytest.raises(ModelNotFoundError) as error:
        find_bundle(name)
    assert str(error.value) == f"no bundle {name!r} here or in {tmp_path / 'models'}; {instead}"


@pytest.mark.parametrize("name", [pytest.param("loop", marks=needs_links), "a\0b"])
def test_name_that_can_be_none_is_no_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_MODELS", str(tmp_path))
    if name == "loop":
        (tmp_path / name).symlink_to(name)
    with pytest.raises(ModelNotFoundError, match="no bundle"):
        find_bundle(name)
