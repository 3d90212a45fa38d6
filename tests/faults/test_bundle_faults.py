"""Damaged, mixed and incomplete bundles are refused by name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Vllama
from vllama.export.checkpoint import find_file, open_state_dict
from vllama.runtime.backend_onnx import OnnxBackend
from vllama.runtime.bundle import find_bundle, shipped_bundle
from vllama.runtime.cache.catalogue import find_entries, list_entries
from vllama.runtime.errors import FileError
from vllama.runtime.llm.devices import gpu_memory
from vllama.runtime.llm.llama_context import check_model
from vllama.runtime.spec import WeightFile
from vllama.runtime.speech.transcribe import Transcriber


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _refused(vllama: Vllama, bundle: Path, clip: Path, *said: str) -> None:
    done = vllama("ask", clip, "x", "--model", bundle)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (3, "", 1), done.stderr
    for words in said:
        assert words in done.stderr


@pytest.mark.parametrize("name", ["frames.onnx", "frames.onnx.data", "positions.safetensors", "llm-F32.gguf"])
def test_flipped_bit_is_found(vllama: Vllama, bundle: Path, clip: Path, name: str) -> None:
    assert vllama("ask", clip, "x", "--model", bundle, "-n", 1).returncode == 0
    _flip(bundle / name)
    _refused(vllama, bundle, clip, name, "sha256", "vllama export tiny-vicuna")


def test_gguf_cut_in_half_is_found(vllama: Vllama, bundle: Path, clip: Path) -> None:
    gguf = bundle / "llm-F32.gguf"
    gguf.write_bytes(gguf.read_bytes()[: gguf.stat().st_size // 2])
    _refused(vllama, bundle, clip, "llm-F32.gguf", "bytes, the manifest says")


def test_missing_file_is_found(vllama: Vllama, bundle: Path, clip: Path) -> None:
    (bundle / "video.onnx").unlink()
    _refused(vllama, bundle, clip, "video.onnx of tiny-vicuna")


def test_file_of_another_export_is_found(
    vllama: Vllama, bundle: Path, clip: Path, export_tiny: Callable[..., Path]
) -> None:
    other = export_tiny(precision="int8", quant="Q8_0")
    shutil.copy(other / "frames.onnx", bundle)
    _refused(vllama, bundle, clip, "frames.onnx of tiny-vicuna")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a vllama manifest"),
        ("[]", "not a vllama manifest"),
        ('{"schema_version": 99}', "schema_version is 99"),
        ('{"schema_version": 1}', "not a vllama manifest"),
    ],
)
def test_foreign_manifest_is_refused(vllama: Vllama, bundle: Path, clip: Path, text: str, said: str) -> None:
    (bundle / "manifest.json").write_text(text)
    _refused(vllama, bundle, clip, said)


def test_manifest_with_a_wrong_spec_is_refused(vllama: Vllama, bundle: Path, clip: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["spec"]["llm"]["hidden_size"] = "wide"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    done = vllama("ask", clip, "x", "--model", bundle)
    assert done.returncode == 2
    assert "llm.hidden_size" in done.stderr


@pytest.fixture
def locked() -> Iterator[Path]:
    """A folder that may not be looked into, in one that may; root's tests look as nobody."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs the permissions of POSIX")
    own = os.geteuid()
    shipped_bundle(), gpu_memory()  # so that all is imported: nobody may not read every Python
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "locked"
        folder.mkdir(mode=0)
        try:
            if own == 0:
                os.seteuid(65534)
            yield folder
        finally:
            os.seteuid(own)


@pytest.mark.parametrize(
    ("look", "said"),
    [
        (lambda path: find_bundle(path / "bundle"), "Permission denied; check its permissions"),
        (lambda path: OnnxBackend(path / "frames.onnx"), "no such file"),
        (lambda path: check_model(path / "llm.gguf"), "no such file"),
        (lambda path: Transcriber(path), "Permission denied; check its permissions"),
        (lambda path: find_file(path, WeightFile("eva.pth")), "Permission denied; check its permissions"),
        (lambda path: find_file(path.parent, WeightFile("locked")), "Permission denied; check its permissions"),
        (lambda path: open_state_dict(path / "eva.pth"), "no such file"),
    ],
)
def test_what_may_not_be_looked_at_is_one_line(locked: Path, look: Callable[[Path], object], said: str) -> None:
    with pytest.raises(FileError, match=rf"^{locked}.*: .*{said}"):
        look(locked)


def test_models_that_may_not_be_looked_at_do_not_keep_the_miniature_from_its_name(
    locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLAMA_MODELS", str(locked))
    assert find_bundle("miniature") == shipped_bundle()
    for model in (None, "bundle"):
        with pytest.raises(FileError, match=rf"^{locked}.*: Permission denied; check its permissions"):
            find_bundle(model)


def test_bundle_that_may_not_be_looked_at_is_not_taken_for_none(locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_MODELS", str(locked.parent))
    with pytest.raises(FileError, match=rf"^{locked}.*: Permission denied; check its permissions"):
        find_bundle()


def test_cache_that_may_not_be_looked_at_is_one_line(locked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_CACHE", str(locked / "cache"))
    for look in (list_entries, lambda: find_entries("kitchen.mp4"), lambda: find_entries(str(locked / "a.mp4"))):
        with pytest.raises(FileError, match=rf"^{locked}.*: cannot be read \(Permission denied\)"):
            look()
