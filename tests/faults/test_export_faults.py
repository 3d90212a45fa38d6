"""An export that is interrupted, runs out of disk, or is given the wrong files."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.conftest import KILLED, Vllama, needs_ctrl_c
from vllama.export import export_model
from vllama.runtime.errors import DiskFullError
from vllama.runtime.manifest import hash_file, read_manifest
from vllama.runtime.spec import ModelSpec


@pytest.fixture
def weights(tiny_weights: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(tiny_weights, tmp_path / "weights"))
    for path in [copy, *copy.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)
    return copy


@pytest.fixture(scope="module")
def silent_spec(vicuna_spec: ModelSpec) -> ModelSpec:
    """The same model without its audio branch: half the graphs."""
    return replace(vicuna_spec, audio=None)


def _arguments(models: Path, weights: Path, out: Path) -> list[str]:
    return ["export", "tiny-vicuna", "--weights", str(weights), "--models", str(models), "--out", str(out),
            "--quant", "F32", "--precision", "fp32"]  # fmt: skip


def test_killed_export_goes_on_where_it_was(
    vllama: Vllama, tiny_models: Path, tiny_weights: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = _arguments(tiny_models, tiny_weights, out)
    process = subprocess.Popen(
        [sys.executable, "-m", "vllama.cli", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    journal = tmp_path / "out.partial" / "journal.json"
    while process.poll() is None and not (journal.exists() and b'"frames"' in journal.read_bytes()):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert process.returncode == KILLED
    assert not out.exists()
    made = (tmp_path / "out.partial" / "frames.onnx.data").stat().st_mtime_ns
    done = vllama(*arguments)
    assert done.returncode == 0, done.stderr
    assert (out / "frames.onnx.data").stat().st_mtime_ns == made
    assert "frames:" not in done.stderr
    assert read_manifest(out).files == read_manifest(tiny_bundle).files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_damage_to_a_finished_part_is_noticed_when_going_on(
    silent_spec: ModelSpec, tiny_weights: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(part: str, done: int, total: int) -> None:
        if part.startswith("llm"):
            raise Stop

    out = tmp_path / "out"
    with pytest.raises(Stop):
        export_model(silent_spec, tiny_weights, out, quant="F32", precision="fp32", progress=stop)
    partial = tmp_path / "out.partial"
    assert not list(partial.glob("*.gguf"))
    (partial / "video.onnx.data").write_bytes(b"damaged")
    export_model(silent_spec, tiny_weights, out, quant="F32", precision="fp32")
    assert hash_file(out / "video.onnx.data") == read_manifest(tiny_bundle).files["video.onnx.data"]


def test_disk_that_fills_up_leaves_no_half_part(silent_spec: ModelSpec, tiny_weights: Path, small_disk: Path) -> None:
    def fill(part: str, done: int, total: int) -> None:
        if part == "video" and not (small_disk / "other").exists():
            free = shutil.disk_usage(small_disk).free
            (small_disk / "other").write_bytes(b"x" * max(free - 8192, 0))

    with pytest.raises(DiskFullError, match="no space left"):
        export_model(silent_spec, tiny_weights, small_disk / "out", quant="F32", precision="fp32", progress=fill)
    left = {path.name for path in (small_disk / "out.partial").iterdir()}
    assert not {name for name in left if name.startswith(("video", "llm", "manifest"))}
    (small_disk / "other").unlink()
    export_model(silent_spec, tiny_weights, small_disk / "out", quant="F32", precision="fp32")
    assert not (small_disk / "out.partial").exists()


def test_disk_that_is_too_small_is_refused_at_once(
    vllama: Vllama, tiny_models: Path, tiny_weights: Path, small_disk: Path
) -> None:
    (small_disk / "other").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 500_000))
    done = vllama(*_arguments(tiny_models, tiny_weights, small_disk / "out"))
    assert (done.returncode, done.stdout) == (7, "")
    assert "GB free" in done.stderr
    assert [path.name for path in small_disk.iterdir()] == ["other"]


@needs_ctrl_c
def test_ctrl_c_is_quiet_and_leaves_no_half_part(tiny_models: Path, tiny_weights: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vllama.cli", *_arguments(tiny_models, tiny_weights, tmp_path / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    partial = tmp_path / "out.partial"
    while process.poll() is None and not partial.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage", ["missing", "truncated", "text", "swapped", "no llm shard", "no tokenizer", "pointer"]
)
def test_wrong_files_are_one_line_and_nothing_is_written(
    command: Vllama, tiny_models: Path, tiny_config: dict[str, Any], weights: Path, tmp_path: Path, damage: str
) -> None:
    files = {role: weights / name for role, name in tiny_config["files"].items()}
    llama = files["llama"]
    named = {
        "missing": files["imagebind"], "truncated": files["qformer"], "text": files["visual_encoder"],
        "swapped": files["vl"], "no llm shard": llama, "no tokenizer": llama,
        "pointer": llama / "tokenizer.model",
    }[damage]  # fmt: skip
    if damage == "missing":
        files["imagebind"].unlink()
    elif damage == "truncated":
        os.truncate(files["qformer"], files["qformer"].stat().st_size // 2)
    elif damage == "text":
        files["visual_encoder"].write_text("<html>not found</html>")
    elif damage == "swapped":
        vl, al = files["vl"].read_bytes(), files["al"].read_bytes()
        files["vl"].write_bytes(al)
        files["al"].write_bytes(vl)
    elif damage == "no llm shard":
        (llama / "model.safetensors").unlink()
    elif damage == "pointer":
        named.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    else:
        (llama / "tokenizer.model").unlink()
    done = command(*_arguments(tiny_models, weights, tmp_path / "out"))
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert named.name in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights"]


def test_existing_folder_is_never_overwritten(
    command: Vllama, tiny_models: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    done = command(*_arguments(tiny_models, tiny_weights, tmp_path / "out"))
    assert (done.returncode, "already there" in done.stderr) == (3, True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize(("option", "value"), [("--quant", "Q99"), ("--precision", "fp8")])
def test_unknown_type_lists_the_known(
    command: Vllama, tiny_models: Path, tiny_weights: Path, tmp_path: Path, option: str, value: str
) -> None:
    arguments = _arguments(tiny_models, tiny_weights, tmp_path / "out")
    arguments[arguments.index(option) + 1] = value
    done = command(*arguments)
    assert (done.returncode, repr(value) in done.stderr, "use one of" in done.stderr) == (2, True, True)


def test_unknown_quantisation_of_an_entry_lists_the_known(
    command: Vllama, tiny_models: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models.toml"
    models.write_text(tiny_models.read_text("utf-8").replace('quantization = "F32"', 'quantization = "Q4"'), "utf-8")
    arguments = _arguments(models, tiny_weights, tmp_path / "out")
    del arguments[arguments.index("--quant") : arguments.index("--quant") + 2]
    done = command(*arguments)
    wrong = "quantization 'Q4' is not known; use one of F32, F16, BF16, "
    assert (done.returncode, wrong in done.stderr) == (2, True), done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["models.toml"]


def test_threads_that_were_asked_for_are_torchs_as_long_as_the_export_takes(
    silent_spec: ModelSpec, tiny_weights: Path, tmp_path: Path
) -> None:
    seen, before = dict[str, int](), torch.get_num_threads()

    def look(part: str, done: int, total: int) -> None:
        seen[part] = torch.get_num_threads()
        if part == "frames in float32":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(silent_spec, tiny_weights, tmp_path / "out", threads=before + 1, progress=look)
    assert seen == dict.fromkeys(("sources", "frames in float32"), before + 1)
    assert torch.get_num_threads() == before


def test_engine_that_does_not_fit_the_disk_leaves_the_bundle_whole(
    export_tiny: Callable[..., Path], vicuna_spec: ModelSpec, tiny_weights: Path, small_disk: Path
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not made for this system")
    from vllama.export.to_tensorrt import EngineOptions

    out = Path(shutil.copytree(export_tiny(precision="fp16", quant="F16"), small_disk / "out"))
    (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free - 100_000))
    before = {path.name: hash_file(path) for path in out.iterdir()}
    with pytest.raises(DiskFullError, match=r"frames\.engine: no space left in .*run the same command"):
        export_model(vicuna_spec, tiny_weights, out, engines=EngineOptions(targets=("12.0",)))
    assert {path.name: hash_file(path) for path in out.iterdir()} == before


@needs_ctrl_c
def test_ctrl_c_while_engines_are_built_is_quiet_and_keeps_the_finished(
    export_tiny: Callable[..., Path], tiny_models: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not made for this system")
    out = Path(shutil.copytree(export_tiny(precision="fp16", quant="F16"), tmp_path / "out"))
    before = {path.name for path in out.iterdir()}
    arguments = ["export", "tiny-vicuna", "--weights", tiny_weights, "--models", tiny_models, "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "vllama.cli", *map(str, arguments), "--engine", "tensorrt"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None and not read_manifest(out).engines:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, ""), said
    assert [line.split(":")[0] for line in said.splitlines()] == ["frames.engine"], said
    assert set(read_manifest(out).engines) == {"frames"}
    assert {path.name for path in out.iterdir()} == {*before, "frames.engine"}


def test_part_that_was_made_of_something_else_is_made_again(
    silent_spec: ModelSpec, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(part: str, done: int, total: int) -> None:
        if part == "video in float32":
            raise Stop

    def frames(spec: ModelSpec, precision: str) -> int:
        with pytest.raises(Stop):
            export_model(spec, weights, tmp_path / "out", quant="F32", precision=precision, progress=stop)
        return (tmp_path / "out.partial" / "frames.onnx.data").stat().st_mtime_ns

    other = replace(silent_spec, license="another")
    made = [frames(silent_spec, "fp32"), frames(silent_spec, "fp16"), frames(other, "fp16")]
    path = weights / silent_spec.video.files.encoder.name
    torch.save({key: tensor + 1 for key, tensor in torch.load(path, weights_only=True).items()}, path)
    made.append(frames(other, "fp16"))
    monkeypatch.setattr("vllama.export.pipeline.own_version", lambda: "another")
    made.append(frames(other, "fp16"))
    assert len(set(made)) == 5
    assert frames(other, "fp16") == made[-1]


def test_disk_without_room_for_the_language_model_is_refused_at_once(
    vicuna_spec: ModelSpec, tiny_weights: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = read_manifest(tiny_bundle).files
    free = sum(record.bytes for record in files.values()) - files["llm-F32.gguf"].bytes // 2
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(DiskFullError, match="GB free, the export needs about"):
        export_model(vicuna_spec, tiny_weights, tmp_path / "out", quant="F32", precision="fp32")
    assert not list(tmp_path.iterdir())
