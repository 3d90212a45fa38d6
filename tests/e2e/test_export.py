"""`vllama export`: what it prints, what the manifest holds, what each precision costs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Vllama
from vllama.runtime.manifest import hash_file, read_manifest

MINIATURE = Path(__file__).parents[2] / "export" / "mini" / "weights"
SQUARE = Path(__file__).parents[2] / "cli" / "demo_clips" / "square.mp4"

# (precision, quant): lowest cosine of a graph, highest mean KL and lowest same-top rate of the LLM. The recorded
# original has random weights and rows of 64, which rounding hurts far more than trained ones: at 4 bits nothing but the
# order of the types can be asked of them.
_LIMITS = {
    ("fp32", "F32"): (0.9999999, None, None),
    ("fp16", "F16"): (0.99999, 1e-4, 0.97),
    ("int8", "Q8_0"): (0.98, 0.02, 0.85),
    ("int8", "Q4_0"): (0.98, float("inf"), 0.0),
}


@pytest.mark.parametrize(("precision", "quant"), list(_LIMITS))
def test_fidelity_stands_in_the_manifest(export_tiny: Callable[..., Path], precision: str, quant: str) -> None:
    manifest = read_manifest(export_tiny(precision=precision, quant=quant))
    cosine, kl, same_top = _LIMITS[precision, quant]
    rows = {row.part: row for row in manifest.fidelity}
    assert set(rows) == {"frames", "clips", "video", "audio"} | (set() if kl is None else {"llm"})
    for part in ("frames", "clips", "video", "audio"):
        row = rows[part]
        assert row.cosine is not None
        assert row.cosine >= cosine, row
        assert row.max_abs is not None
    if kl is not None and same_top is not None:
        llm = rows["llm"]
        assert llm.kl is not None
        assert 0 <= llm.kl <= kl, llm
        assert llm.same_top is not None
        assert llm.same_top >= same_top, llm
        assert llm.prompts == 12
        assert llm.flips is not None
    print(precision, quant, *manifest.fidelity, sep="\n")


def test_wider_types_cost_less(export_tiny: Callable[..., Path]) -> None:
    types = [("fp16", "F16"), ("int8", "Q8_0"), ("int8", "Q4_0")]
    manifests = [read_manifest(export_tiny(precision=precision, quant=quant)) for precision, quant in types]
    kls = [row.kl for manifest in manifests for row in manifest.fidelity if row.kl is not None]
    assert kls == sorted(kls)
    assert kls[0] < kls[1] / 10 < kls[2] / 100


def test_manifest_tells_everything_that_went_in_and_came_out(
    tiny_bundle: Path, tiny_weights: Path, tiny_config: dict[str, Any]
) -> None:
    manifest = read_manifest(tiny_bundle)
    assert {path.name for path in tiny_bundle.iterdir()} == {"manifest.json", *manifest.files}
    for name, record in manifest.files.items():
        assert hash_file(tiny_bundle / name) == record
    for role, name in tiny_config["files"].items():
        if role != "llama":
            assert manifest.sources[name] == hash_file(tiny_weights / name)
    assert {"model.safetensors", "tokenizer.model", "config.json"} <= {Path(name).name for name in manifest.sources}
    assert manifest.precision == {"frames": "fp32", "video": "fp32", "clips": "fp32", "audio": "fp32", "llm": "F32"}
    assert set(manifest.tools) >= {"vllama", "torch", "onnx", "llama-cpp-python"}
    assert manifest.spec["prompt"]["stop"] == ["###"]
    assert str(tiny_weights) not in (tiny_bundle / "manifest.json").read_text()


def test_table_is_printed_and_the_bundle_is_found_by_name(
    vllama: Vllama, tiny_models: Path, tiny_weights: Path, home: Path, clip: Path
) -> None:
    options = ("--weights", tiny_weights, "--models", tiny_models, "--quant", "Q4_K_M", "--precision", "int8")
    done = vllama("export", "tiny-llama-2", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(home / "models" / "tiny-llama-2")
    for words in ("frames", "audio", "llm", "flipped answers", "of 12", "kept wider than asked: "):
        assert words in done.stdout
    parts = [line.split(":")[0] for line in done.stderr.splitlines()]
    assert parts == ["sources", "frames", "video", "clips", "audio", "positions", "llm Q4_K_M", "llm fidelity"]
    for line in done.stderr.splitlines():
        assert re.search(r": [\d,]+ bytes in \d+\.\d s \(\d+\.\d s of CPU\)", line), line
    for named in ((), ("--model", "tiny-llama-2")):
        asked = vllama("ask", clip, "What?", "-n", 2, "--json", *named)
        assert json.loads(asked.stdout)["model"] == "tiny-llama-2"


def test_export_of_a_model_without_sound_answers_from_the_picture(
    vllama: Vllama, tiny_models: Path, tiny_weights: Path, tmp_path: Path, clip: Path, sound_file: Path
) -> None:
    models = tmp_path / "models.toml"
    models.write_text(tiny_models.read_text("utf-8").replace('audio = "tiny"\n', ""), "utf-8")
    options = ("--weights", tiny_weights, "--models", models, "--quant", "F32", "--precision", "fp32")
    done = vllama("export", "tiny-vicuna", *options, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "out").glob("audio*"))
    asked = vllama("ask", clip, "What?", "-n", 2, "--model", tmp_path / "out")
    assert "heard nothing: tiny-vicuna has no audio branch" in asked.stderr
    refused = vllama("ask", sound_file, "What?", "-n", 2, "--model", tmp_path / "out")
    assert (refused.returncode, "no audio branch" in refused.stderr) == (4, True)


def test_engines_are_built_with_an_export_and_into_a_bundle_that_is_there(vllama: Vllama, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not made for this system")
    out = tmp_path / "out"
    options = ("miniature", "--weights", MINIATURE, "--out", out, "--engine", "tensorrt", "--target", "12.0")
    done = vllama("export", *options, "--quant", "Q8_0", "--threads", 1)
    assert done.returncode == 0, done.stderr
    parts = [line.split(":")[0] for line in done.stderr.splitlines()]
    assert parts[-4:] == ["frames.engine", "video.engine", "clips.engine", "audio.engine"]
    manifest = read_manifest(out)
    assert manifest.precision["frames"] == "fp16"
    assert {record.targets for record in manifest.engines.values()} == {("12.0",)}
    asked = vllama("ask", SQUARE, "What colour is the square?", "--model", out)
    assert (asked.returncode, "green" in asked.stdout) == (0, True), "without a GPU the same bundle answers on the CPU"
    (out / "audio.engine").unlink()
    again = vllama("export", *options)
    assert again.returncode == 0, again.stderr
    assert [line.split(":")[0] for line in again.stderr.splitlines()] == ["audio.engine"]
    assert read_manifest(out).files == manifest.files


_REFUSED = """
import sys
from vllama.cli.app import main

for words in sys.argv[1:]:
    sys.argv = ["vllama", "export", *words.split("|")]
    try:
        main()
    except SystemExit as ended:
        print(ended.code, "torch" in sys.modules)
"""


def test_what_is_wrong_is_said_before_torch_is_loaded(tiny_models: Path, tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    right = ["tiny-vicuna", "--models", str(tiny_models), "--out", str(tmp_path / "out")]
    there, none = str(tmp_path / "there"), str(tmp_path / "none")
    wrong = {
        "quantization 'Q99' is not known; use one of F32, F16, ": ["--weights", str(tiny_weights), "--quant", "Q99"],
        "precision 'fp8' is not known; use one of fp32, ": ["--weights", str(tiny_weights), "--precision", "fp8"],
        f"{none}: not a folder; give the one with the published files as --weights": ["--weights", none],
        f"{there}: already there; remove it or choose another": ["--weights", str(tiny_weights), "--out", there],
    }
    command = [sys.executable, "-c", _REFUSED, *("|".join([*right, *more]) for more in wrong.values())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["2 False", "2 False", "3 False", "3 False"], done.stderr
    for line, words in zip(done.stderr.splitlines(), wrong, strict=True):
        assert line.startswith(f"vllama: {words}")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_without_the_extra_it_is_said_what_to_install(tiny_models: Path, tiny_weights: Path, tmp_path: Path) -> None:
    words = ["tiny-vicuna", "--models", tiny_models, "--out", tmp_path / "out", "--weights", tiny_weights]
    code = f"import sys\nsys.modules['torch'] = None\n{_REFUSED}"
    done = subprocess.run([sys.executable, "-c", code, "|".join(map(str, words))], capture_output=True, text=True)
    assert done.stdout == "5 True\n", done.stderr
    assert done.stderr.startswith("vllama: an export needs torch and others (")
    assert done.stderr.endswith('; install the extra `export` (`pip install ".[export]"` in vllama\'s checkout)\n')


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--engine", "tensorrt", "--target", "9.0"), 2, "tensorrt_rtx builds for 7.5, 8.0"),
        (("--engine", "tensorrt", "--library", "tensorrt"), 5, "tensorrt is not installed; install NVIDIA's TensorRT"),
        (("--engine", "tensorrt", "--precision", "int8"), 2, "int8 is for CPUs, and TensorRT takes none of it"),
        (("--target", "8.9"), 2, "--target is for --engine tensorrt"),
    ],
)
def test_engines_that_cannot_be_are_refused_before_any_work(
    options: tuple[str, ...],
    code: int,
    words: str,
    vllama: Vllama,
    tiny_models: Path,
    tiny_weights: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not made for this system")
    where = ("--weights", tiny_weights, "--models", tiny_models, "--out", tmp_path / "out")
    done = vllama("export", "tiny-vicuna", *where, *options)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
