"""`vllama plan`, and what it foretells against what a process takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Vllama
from vllama.cli import plan as command
from vllama.runtime.bundle import shipped_bundle
from vllama.runtime.machine import GpuMemory, Memory
from vllama.runtime.registry import find_spec

ENTRY = """
[llm.small]
architecture = "llama"
hidden_size = 2048
dimensions = { num_layers = 16, num_heads = 16, num_kv_heads = 4, intermediate_size = 5632, vocab_size = 32000 }
n_ctx = 512
quantization = "Q4_K_M"
sampling = { temperature = 0.0, top_p = 1.0, top_k = 0, max_tokens = 64 }
[models.mine]
source = ""
weights = ""
license = ""
video = "eva-vit-g"
llm = "small"
prompt = "vicuna"
messages = "video-llama"
files = { vl = { name = "mine.pth" }, llm = { name = "mine" } }
"""
PEAK = """
import sys
from vllama.runtime import Engine
from vllama.runtime.machine import peak_bytes
with Engine.open("miniature", answers={answers}, gpu_layers=0) as engine:
    timeline = engine.index({clip!r}, fps=0.0)
    if {answers}:
        list(engine.chat(timeline).ask("What happens?"))
print(peak_bytes())
"""


def planned(vllama: Vllama, *options: object) -> dict[str, Any]:
    done = vllama("plan", "--model", "miniature", "--json", *options)
    assert (done.returncode, done.stderr) == (0, "")
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def test_the_table_says_what_goes_where_and_whether_it_fits(vllama: Vllama) -> None:
    done = vllama("plan", "--model", "miniature", "--gpu-memory", "8GB", "--kv", "q8_0", "--ctx-size", "512")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("512 positions, q8_0 KV cache", "frames: pictures", "LLM weights", "KV cache", "on the GPU"):
        assert words in done.stdout
    assert "--gpu-layers auto: 5 of 5 layers, output included" in done.stdout
    assert "an indexed hour" in done.stdout
    assert "MB needed: fits" in done.stdout


def test_the_object_holds_both_plans(vllama: Vllama) -> None:
    row = planned(vllama, "--gpu-memory", "8GB")
    assert (row["model"], row["n_ctx"], row["kv"]) == ("miniature", 1024, "f16")
    cpu, gpu = row["plans"]["CPU"], row["plans"]["GPU"]
    assert (cpu["gpu"], cpu["gpu_layers"], gpu["gpu_layers"]) == (0, 0, 5)
    assert sum(part["gpu"] for part in gpu["parts"]) == gpu["gpu"] < row["machine"]["gpu_usable"] < 8e9
    assert gpu["ram_answering"] < cpu["ram_answering"] < cpu["ram_encoding"]
    assert len(row["layer_bytes"]) == 5
    assert row["machine"]["cores"] >= 1


def test_encoders_for_cpus_stay_there(vllama: Vllama) -> None:
    done = vllama("plan", "--model", "miniature", "--gpu-memory", "8GB")
    assert "the encoders are int8 and stay on the CPU" in done.stdout
    plans = planned(vllama, "--gpu-memory", "8GB")["plans"]
    frames = [next(part for part in plans[name]["parts"] if part["name"] == "frames") for name in ("CPU", "GPU")]
    assert frames[0] == frames[1]


def test_encoders_that_can_run_on_a_gpu_are_planned_there(vllama: Vllama, tiny_bundle: Path) -> None:
    done = vllama("plan", "--model", tiny_bundle, "--gpu-memory", "8GB", "--json")
    row = json.loads(done.stdout)
    (frames,) = (part for part in row["plans"]["GPU"]["parts"] if part["name"] == "frames")
    assert (frames["ram"], frames["gpu"] > 0) == (0, True)
    assert row["kv"] == "f32"  # of a bundle without any rounding


@pytest.mark.parametrize(
    ("in_ram", "nvidia", "encoders"), [(False, True, True), (False, False, False), (True, False, False)]
)
def test_a_gpu_of_llama_cpp_has_the_encoders_only_where_it_is_nvidias(
    in_ram: bool,
    nvidia: bool,
    encoders: bool,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpus = (GpuMemory("a GPU", 8 * 10**9, 8 * 10**9, in_ram),)
    monkeypatch.setattr(command, "gpu_memory", lambda: gpus)
    monkeypatch.setattr(command, "nvidia_memory", lambda: gpus if nvidia else ())
    monkeypatch.setattr(command, "read_memory", lambda: Memory(10**9, 10**9))
    monkeypatch.setattr(command, "physical_cores", lambda: 2)
    command.plan(str(tiny_bundle), as_json=True)
    command.plan(str(tiny_bundle))
    first, _, says = capsys.readouterr().out.partition("\n")
    row = json.loads(first)
    found = row["plans"]["GPU"]
    (frames,) = (part for part in found["parts"] if part["name"] == "frames")
    assert (frames["gpu"] > 0) == encoders
    assert ("of GPUs they run on NVIDIA's alone" in says) == (not encoders)
    together = found["ram_encoding"] + found["gpu"] * in_ram
    assert f"{together / 1e6:,.0f} MB needed: fits" in says
    monkeypatch.setattr(command, "read_memory", lambda: Memory(10**9, found["ram_encoding"]))
    command.plan(str(tiny_bundle), as_json=True)
    assert json.loads(capsys.readouterr().out)["plans"]["GPU"]["fits"] == (not in_ram)


def test_without_a_gpu_there_is_one_plan(vllama: Vllama) -> None:
    row = planned(vllama, "--gpu-memory", "0")
    assert list(row["plans"]) == ["CPU"]
    assert row["machine"]["gpus"] == []


def test_a_gpu_too_small_for_the_encoders_is_said_and_gets_no_layers(vllama: Vllama, tiny_bundle: Path) -> None:
    how = ("plan", "--model", tiny_bundle, "--gpu-memory", "900MB")
    assert " MB needed of 144 MB usable: does not fit; use --device cpu" in vllama(*how).stdout
    found = json.loads(vllama(*how, "--json").stdout)["plans"]["GPU"]
    assert (found["gpu_layers"], found["fits"]) == (0, False)


def test_a_size_that_is_none_is_said(vllama: Vllama) -> None:
    done = vllama("plan", "--gpu-memory", "much")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "vllama: 'much' is not a size; write 256MB, 1.5GB or 64MiB\n"


def test_a_size_without_a_unit_is_asked_for_one(vllama: Vllama) -> None:
    done = vllama("plan", "--gpu-memory", "8")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "vllama: '8' has no unit; write 8MB or 8GB\n"


def test_a_context_that_is_planned_is_one_that_can_be_asked_for(vllama: Vllama, clip: Path) -> None:
    for size, code in (("1", 2), ("1048577", 2), ("2", 0), ("1048576", 0)):
        done = vllama("plan", "--model", "miniature", "-c", size)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
    for size in ("1", "1048577"):
        assert vllama("ask", clip, "What?", "--model", "miniature", "-c", size).returncode == 2


def test_the_name_of_a_model_is_shown_as_it_is(vllama: Vllama, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shipped_bundle(), tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest | {"model": "mini[red]ature[/b]"}), "utf-8")
    done = vllama("plan", "--model", folder, "--gpu-memory", "0")
    assert done.returncode == 0, done.stderr
    assert "mini[red]ature[/b]: " in done.stdout


def test_a_model_that_is_not_exported_is_reckoned_from_its_entry(vllama: Vllama) -> None:
    done = vllama("plan", "--model", "video-llama-2-7b-chat", "--gpu-memory", "8GB")
    assert (done.returncode, done.stderr) == (0, "")
    says = " ".join(done.stdout.split())
    assert "video-llama-2-7b-chat, not exported yet: Q4_K_M, encoders int8, 2048 positions, q8_0 KV cache; MB" in says
    row = json.loads(vllama("plan", "--model", "video-llama-2-7b-chat", "--json", "--gpu-memory", "0").stdout)
    assert (row["exported"], row["quant"], row["precision"], row["kv"]) == (False, "Q4_K_M", "int8", "q8_0")
    assert 6_000 < row["plans"]["CPU"]["ram_encoding"] / 1e6 < 6_500  # docs/llm.md: 6,251 of the bundle on disk
    assert 5_400 < row["disk"] / 1e6 < 5_500


def test_it_is_reckoned_as_it_would_be_exported(vllama: Vllama, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(ENTRY, "utf-8")
    how = ("--models", tmp_path / "models.toml", "--quant", "Q8_0", "--precision", "fp16", "--json")
    row = json.loads(vllama("plan", "--model", "mine", *how, "--gpu-memory", "24GB").stdout)
    assert (row["model"], row["quant"], row["precision"], row["n_ctx"]) == ("mine", "Q8_0", "fp16", 512)
    frames = next(part for part in row["plans"]["GPU"]["parts"] if part["name"] == "frames")
    assert frames["ram"] == 0
    assert 2_100 < frames["gpu"] / 1e6 < 2_300  # of 1.1e9 weights in halves
    assert len(row["layer_bytes"]) == 17


def test_a_bundle_that_is_there_is_planned_as_it_is_unless_another_is_asked_for(
    vllama: Vllama, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLAMA_MODELS", str(tmp_path))
    shutil.copytree(tiny_bundle, tmp_path / "video-llama-2-7b-chat")
    rows = [
        json.loads(vllama("plan", "--model", "video-llama-2-7b-chat", *how, "--json").stdout)
        for how in ((), ("--quant", "Q4_K_M"))
    ]
    assert [row["exported"] for row in rows] == [True, False]
    assert rows[0]["disk"] < 1e8 < 5e9 < rows[1]["disk"]


def test_another_export_of_a_bundle_is_reckoned_from_the_entry_that_it_holds(vllama: Vllama, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shipped_bundle(), tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest["spec"]["name"] = "private"
    dimensions = find_spec("miniature").llm.dimensions
    assert dimensions is not None
    manifest["spec"]["llm"]["dimensions"] = asdict(dimensions)
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    rows = [
        json.loads(vllama("plan", "--model", model, "--quant", "F16", "--json").stdout)
        for model in (folder, "miniature")
    ]
    assert [(row["model"], row["exported"], row["quant"]) for row in rows] == [
        ("private", False, "F16"), ("miniature", False, "F16"),
    ]  # fmt: skip
    made = planned(vllama)
    for row in rows:
        assert row["layer_bytes"][0] == pytest.approx(made["layer_bytes"][0] * 32 / 17, rel=0.01)  # 2 bytes for 34 / 32


def test_what_cannot_be_reckoned_is_said(vllama: Vllama, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(ENTRY.partition("dimensions")[0] + ENTRY.partition("}\n")[2], "utf-8")
    model = ("--model", "video-llama-2-7b-chat")
    for how, says in (
        (("--quant", "Q4_K_M"), "--quant is for a model to be exported; name it with --model"),
        (("--model", "none", "--precision", "fp16"), "no model is called 'none'; known: "),
        ((*model, "--quant", "Q4"), "quantization 'Q4' is not known; use one of F32, "),
        ((*model, "--precision", "int4"), "precision 'int4' is not known; use one of fp32, "),
        (
            ("--model", "mine", "--models", tmp_path / "models.toml"),
            "models.mine: llm.dimensions is missing, and an export cannot be reckoned without; give an entry ",
        ),
    ):
        done = vllama("plan", *how)
        assert (done.returncode in (2, 3), done.stdout, len(done.stderr.splitlines())) == (True, "", 1), how
        assert done.stderr.startswith(f"vllama: {says}"), how


def test_the_quantisation_that_would_fit_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "gpu_memory", lambda: ())
    monkeypatch.setattr(command, "nvidia_memory", lambda: ())
    monkeypatch.setattr(command, "physical_cores", lambda: 2)
    for free, says in (
        (4.5e9, "does not fit; export it with --quant IQ4_XS, and index clips first: `vllama index`"),
        (3e9, "does not fit; end other programs, or export it with a smaller --quant"),
    ):
        monkeypatch.setattr(command, "read_memory", lambda free=free: Memory(8 * 10**9, int(free)))
        command.plan("video-llama-2-7b-chat")
        assert says in capsys.readouterr().out


def test_a_model_that_is_not_there_is_said(vllama: Vllama) -> None:
    done = vllama("plan", "--model", "none")
    assert (done.returncode, len(done.stderr.splitlines())) == (3, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux tells it")
@pytest.mark.parametrize(("answers", "kind"), [(False, "ram_indexing"), (True, "ram_encoding")])
def test_the_peak_of_a_process_is_near_the_plan(
    vllama: Vllama, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool, kind: str
) -> None:
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path))
    script = PEAK.format(clip=str(clip), answers=answers)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=300)
    foretold = planned(vllama)["plans"]["CPU"][kind]
    assert 0.75 < foretold / int(done.stdout) < 1.33


@pytest.mark.parametrize("layers", ["many", "-1", "1.5"])
def test_gpu_layers_that_are_no_number_are_said(vllama: Vllama, clip: Path, layers: str) -> None:
    done = vllama("ask", clip, "What?", f"--gpu-layers={layers}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"vllama: --gpu-layers is {layers!r}; use auto, all, or a number of layers\n"


def test_layers_for_a_gpu_that_llama_cpp_cannot_use_are_refused(vllama: Vllama, clip: Path) -> None:
    import llama_cpp.llama_cpp as library

    if library.llama_supports_gpu_offload():
        pytest.skip("this build has GPU support")
    for how in (("--gpu-layers", "all"), ("--gpu-layers", "3")):
        done = vllama("ask", clip, "What?", "--model", "miniature", *how)
        assert (done.returncode, len(done.stderr.splitlines())) == (5, 1)
        assert "finds no GPU, or was built without support for one" in done.stderr
    done = vllama("ask", clip, "What?", "--model", "miniature", "-n", 1, env={"VLLAMA_GPU_LAYERS": "all"})
    assert done.returncode == 5
    done = vllama("ask", clip, "What?", "--model", "miniature", "-n", 1, "--gpu-layers", "auto")
    assert done.returncode == 0
