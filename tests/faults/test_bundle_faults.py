"""Damaged, mixed and incomplete bundles are refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _refused(vllama: Callable, bundle: Path, clip: Path, *said: str) -> None:
    done = vllama("ask", clip, "x", "--model", bundle)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (3, "", 1), done.stderr
    for words in said:
        assert words in done.stderr


@pytest.mark.parametrize("name", ["frames.onnx", "frames.onnx.data", "positions.safetensors", "llm-F32.gguf"])
def test_flipped_bit_is_found(vllama: Callable, bundle: Path, clip: Path, name: str) -> None:
    assert vllama("ask", clip, "x", "--model", bundle, "-n", 1).returncode == 0
    _flip(bundle / name)
    _refused(vllama, bundle, clip, name, "sha256", "vllama export tiny-vicuna")


def test_gguf_cut_in_half_is_found(vllama: Callable, bundle: Path, clip: Path) -> None:
    gguf = bundle / "llm-F32.gguf"
    gguf.write_bytes(gguf.read_bytes()[: gguf.stat().st_size // 2])
    _refused(vllama, bundle, clip, "llm-F32.gguf", "bytes, the manifest says")


def test_missing_file_is_found(vllama: Callable, bundle: Path, clip: Path) -> None:
    (bundle / "video.onnx").unlink()
    _refused(vllama, bundle, clip, "video.onnx of tiny-vicuna")


def test_file_of_another_export_is_found(
    vllama: Callable, bundle: Path, clip: Path, export_tiny: Callable[..., Path]
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
def test_foreign_manifest_is_refused(vllama: Callable, bundle: Path, clip: Path, text: str, said: str) -> None:
    (bundle / "manifest.json").write_text(text)
    _refused(vllama, bundle, clip, said)


def test_manifest_with_a_wrong_spec_is_refused(vllama: Callable, bundle: Path, clip: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["spec"]["llm"]["hidden_size"] = "wide"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    done = vllama("ask", clip, "x", "--model", bundle)
    assert done.returncode == 2
    assert "llm.hidden_size" in done.stderr
