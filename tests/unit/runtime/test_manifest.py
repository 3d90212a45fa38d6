from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllama.runtime.errors import FileError, MissingFileError
from vllama.runtime.manifest import FileRecord, Manifest, hash_file, read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files, precision = {"llm": FileRecord(1, "0")}, {"frames": "fp32", "llm": "F32"}
    write_manifest(tmp_path, Manifest(1, "m", "free", {}, "llm", {}, files, precision, {}, ()))
    return tmp_path


def test_manifest_that_cannot_be_written_leaves_no_half_of_it(folder: Path) -> None:
    manifest = read_manifest(folder)
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()  # which no file can replace
    with pytest.raises(OSError, match=r"manifest\.json"):
        write_manifest(folder, manifest)
    assert not list(folder.glob("*.part"))


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="none"):
        hash_file(tmp_path / "none")
    (tmp_path / "one").write_bytes(b"abc")
    assert hash_file(tmp_path / "one") == FileRecord(
        3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("precision", {"llm": "F32"}, "no precision of frames"),
        ("precision", {"frames": "fp32"}, "no precision of llm"),
        ("llm", "other.gguf", "llm is 'other.gguf', which is not among its files"),
    ],
)
def test_manifest_that_lacks_what_is_used_is_none(folder: Path, field: str, value: object, said: str) -> None:
    table = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**table, field: value}))
    with pytest.raises(FileError, match=rf"not a vllama manifest \({said}\); export the model again"):
        read_manifest(folder)
