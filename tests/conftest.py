"""The recorded original, as every test sees it.

The reference folder is `$VLLAMA_REFERENCE`, else `../shared/reference` where it is, else the copy under
`tests/golden`, which lacks the pictures (they are not ours to ship). Any folder of the same layout will do: the suite
takes every dimension from its `tiny/config.json`.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from vllama.cli.app import main
from vllama.runtime.manifest import read_manifest, write_manifest
from vllama.runtime.registry import find_spec, spec_to_dict
from vllama.runtime.spec import AudioSpec, ModelSpec

# What started the suite may have Ctrl-C ignored, as shells do in the background; the tests that send it need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_HERE = Path(__file__).parent
_SHARED = _HERE.parents[1] / "shared"
Golden = dict[str, np.ndarray]
needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
needs_ctrl_c = pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as POSIX does it")
KILLED = 1 if sys.platform == "win32" else -signal.SIGKILL  # the exit code of a killed process


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder with tiny/, preprocessing/, manifests/ and prompts.json."""
    named = os.environ.get("VLLAMA_REFERENCE")
    candidates = [Path(named)] if named else [_SHARED / "reference", _HERE / "golden"]
    return next(path for path in candidates if (path / "tiny" / "config.json").is_file())


@pytest.fixture(scope="session")
def clips() -> Path:
    """The real clips."""
    folder = _SHARED / "clips"
    if not folder.is_dir():
        pytest.skip("the real clips are not ours to ship; they are tested where ../shared/clips is")
    return folder


@pytest.fixture(scope="session")
def clips_golden(clips: Path) -> Path:
    """What the original made of the real clips: NAME.json and NAME.npz."""
    return _SHARED / "reference" / "preprocessing" / "clips_golden"


@pytest.fixture(scope="session")
def golden(reference: Path) -> Callable[[str], Golden]:
    """Recorded arrays of the tiny original by file name without suffix; skips where pictures were left out."""

    def read(name: str, *needed: str) -> Golden:
        with np.load(reference / "tiny" / "golden" / f"{name}.npz") as arrays:
            missing = set(needed) - set(arrays.files)
            if missing:
                pytest.skip(f"{name}.npz has no {', '.join(sorted(missing))}: pictures are not ours to ship")
            return {key: arrays[key] for key in arrays.files}

    return read


@pytest.fixture(scope="session")
def tiny_config(reference: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((reference / "tiny" / "config.json").read_text("utf-8"))
    return config


@pytest.fixture(scope="session")
def tiny_weights(reference: Path) -> Path:
    """The tiny original's checkpoints, in the published layout."""
    return reference / "tiny" / "checkpoints"


@pytest.fixture(scope="session")
def tiny_models(tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models.toml with `tiny-vicuna` and `tiny-llama-2`: one set of weights, two prompt formats."""
    path = tmp_path_factory.mktemp("models") / "models.toml"
    path.write_text(models_toml(tiny_config), "utf-8")
    return path


@pytest.fixture(scope="session", params=["vicuna", "llama-2"])
def tiny_spec(request: pytest.FixtureRequest, tiny_models: Path) -> ModelSpec:
    return find_spec(f"tiny-{request.param}", tiny_models)


@pytest.fixture(scope="session")
def vicuna_spec(tiny_models: Path) -> ModelSpec:
    return find_spec("tiny-vicuna", tiny_models)


def models_toml(config: dict[str, Any]) -> str:
    """Two entries of models.toml for the dimensions of a recorded original."""
    vit, sound, llama = config["vit"], config["imagebind_audio"], config["llama"]
    files = config["files"]

    def qformer(name: str, extra: str = "") -> str:
        q = config[name]
        return (
            f"{{ query_tokens = {q['num_query_tokens']}, layers = {q['num_hidden_layers']}, "
            f"hidden_size = {q['hidden_size']}, num_heads = {q['num_attention_heads']}, "
            f"intermediate_size = {q['intermediate_size']}, "
            f"cross_attention_every = {q['cross_attention_freq']}{extra} }}"
        )

    parts = f"""
[video.tiny]
num_frames = {config["num_frames"]}
image_size = {vit["img_size"]}
normalise = {{ mean = {config["pixel_mean"]}, std = {config["pixel_std"]} }}
encoder = {{ patch_size = {vit["patch_size"]}, hidden_size = {vit["embed_dim"]}, depth = {vit["depth"]}, \
num_heads = {vit["num_heads"]}, intermediate_size = {vit["mlp_hidden"]} }}
qformer = {qformer("image_qformer")}
video_qformer = {qformer("video_qformer", f", max_frames = {config['video_qformer']['max_frame_pos']}")}
[video.tiny.files]
encoder = {{ name = "{files["visual_encoder"]}" }}
qformer = {{ name = "{files["qformer"]}" }}

[audio.tiny]
sample_rate = {config["sample_rate"]}
num_clips = {config["num_audio_clips"]}
clip_seconds = {config["clip_seconds"]}
num_mel_bins = {sound["num_mel_bins"]}
target_length = {sound["target_length"]}
frame = {{ length_ms = 25.0, shift_ms = 10.0, window = "hanning" }}
normalise = {{ mean = {config["audio_mean"]}, std = {config["audio_std"]} }}
encoder = {{ hidden_size = {sound["embed_dim"]}, depth = {sound["num_blocks"]}, num_heads = {sound["num_heads"]}, \
intermediate_size = {sound["embed_dim"] * sound["mlp_ratio"]}, kernel_size = {sound["kernel_size"]}, \
stride = {sound["stride"]}, output_size = {sound["out_embed_dim"]} }}
audio_qformer = {qformer("audio_qformer", f", max_clips = {config['audio_qformer']['max_audio_pos']}")}
[audio.tiny.files]
encoder = {{ name = "{files["imagebind"]}" }}

[llm.tiny]
architecture = "llama"
hidden_size = {llama["hidden_size"]}
n_ctx = {llama["max_position_embeddings"]}
quantization = "F32"
sampling = {{ temperature = 1.0, top_p = 0.9, top_k = 50, max_tokens = 300 }}
"""
    entry = """
[models.tiny-{name}]
source = "the recorded original"
weights = "tests/golden/tiny/checkpoints"
license = "test data"
video = "tiny"
audio = "tiny"
llm = "tiny"
prompt = "{name}"
messages = "video-llama"
[models.tiny-{name}.files]
vl = {{ name = "{vl}" }}
al = {{ name = "{al}" }}
llm = {{ name = "{llm}" }}
"""
    named = {"vl": files["vl"], "al": files["al"], "llm": files["llama"].rstrip("/")}
    return parts + "".join(entry.format(name=name, **named) for name in ("vicuna", "llama-2"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 8 MiB."""
    if sys.platform != "linux":
        pytest.skip("a small disk is mounted as Linux does it")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


Done = subprocess.CompletedProcess[str]
Vllama = Callable[..., Done]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command keeps bundles and timelines in this run."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session", autouse=True)
def own_surroundings(home: Path) -> Iterator[None]:
    """No test sees what this person has set, exported and indexed, or leaves anything there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("VLLAMA_") and name != "VLLAMA_REFERENCE"]:
            patch.delenv(name)
        patch.setenv("VLLAMA_MODELS", str(home / "models"))
        patch.setenv("VLLAMA_CACHE", str(home / "cache"))
        yield


@pytest.fixture(scope="session")
def vllama() -> Vllama:
    """Run the `vllama` command as a person does; keyword `env` adds variables, others go to subprocess.run."""

    def run(*arguments: object, env: dict[str, str] | None = None, **options: Any) -> Done:
        return subprocess.run(
            [sys.executable, "-m", "vllama.cli", *map(str, arguments)],
            capture_output=True,
            timeout=300,
            **{"encoding": "utf-8", "stdin": None if "input" in options else subprocess.DEVNULL, **options},
            env={**os.environ, "COLUMNS": "120", **(env or {})},
        )

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Vllama:
    """The same in this process, where everything is loaded: for what a process of its own shows no more of."""

    def run(*arguments: object, env: dict[str, str] | None = None) -> Done:
        words = ["vllama", *map(str, arguments)]
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", words)
            for name, value in {"COLUMNS": "120", **(env or {})}.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        code = ended.value.code
        assert isinstance(code, int)
        return Done(words, code, *capsys.readouterr())

    return run


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def read_tensors(folder: Path) -> dict[str, Any]:
    """Those of `model.safetensors`, copied: a file that is mapped cannot be written on Windows."""
    from safetensors.torch import load  # torch

    return load((folder / "model.safetensors").read_bytes())


@pytest.fixture(scope="session")
def export_tiny(tiny_models: Path, tiny_weights: Path) -> Callable[..., Path]:
    """Export an entry of `tiny_models`; the same options give the same bundle."""

    @functools.cache
    def exported(name: str, quant: str, precision: str) -> Path:
        from vllama.export import export_model  # loads torch

        out, spec = tiny_models.parent / f"{name}-{quant}-{precision}", find_spec(name, tiny_models)
        partial, graphs = out.with_name(f"{out.name}.partial"), tiny_models.parent / f"graphs-{precision}"

        def keep_graphs(part: str, done: int, total: int) -> None:
            if part.startswith("llm") and not graphs.exists():
                shutil.copytree(partial, graphs)

        if name == "tiny-vicuna":
            if graphs.exists():  # of another type of the language model: the export goes on with it
                shutil.copytree(graphs, partial)
            return export_model(spec, tiny_weights, out, quant=quant, precision=precision, progress=keep_graphs).folder
        shutil.copytree(exported("tiny-vicuna", quant, precision), out)  # the same weights, with other words around
        write_manifest(out, replace(read_manifest(out), model=name, spec=spec_to_dict(spec)))
        return out

    def export(name: str = "tiny-vicuna", quant: str = "F32", precision: str = "fp32") -> Path:
        return exported(name, quant, precision)

    return export


@pytest.fixture(scope="session")
def tiny_bundle(export_tiny: Callable[..., Path]) -> Path:
    """tiny-vicuna in float32 throughout."""
    return export_tiny()


@pytest.fixture(scope="session")
def tiny_gguf(vicuna_spec: ModelSpec, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The language model of tiny-vicuna alone, in F16."""
    from vllama.export.llama import open_llama  # these load torch
    from vllama.export.to_gguf import to_gguf

    path = tmp_path_factory.mktemp("llm") / "llm.gguf"
    to_gguf(open_llama(vicuna_spec, tiny_weights), vicuna_spec, path, "F16")
    return path


@pytest.fixture(scope="session")
def chat_cases(reference: Path) -> dict[str, Any]:
    """The recorded conversations by name."""
    cases: dict[str, Any] = json.loads((reference / "tiny" / "golden" / "chat_cases.json").read_text("utf-8"))
    return cases


@pytest.fixture(scope="session")
def audio() -> AudioSpec:
    """How the published models hear: the recordings of the preprocessing do not depend on the size of a model."""
    spec = find_spec("video-llama-2-7b-chat").audio
    assert spec is not None
    return spec


@pytest.fixture(scope="session")
def film() -> Iterator[Path]:
    """A red circle, a blue star and three beeps."""
    with as_file(files("vllama.cli").joinpath("demo_clips", "circle.mp4")) as path:
        yield path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of a moving bar and a rising tone: H.264 at 10 per second, AAC stereo at 44.1 kHz."""
    return _render(tmp_path_factory.mktemp("clips") / "clip.mp4", picture=True, sound=True)


@pytest.fixture(scope="session")
def silent_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures without an audio track."""
    return _render(tmp_path_factory.mktemp("clips") / "silent.mp4", picture=True, sound=False)


@pytest.fixture(scope="session")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sound alone."""
    return _render(tmp_path_factory.mktemp("clips") / "sound.m4a", picture=False, sound=True)


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "picture.png"
    Image.fromarray(_bar(3)).save(path)
    return path


@pytest.fixture(scope="session")
def render_clip() -> Callable[..., Path]:
    """Make another clip of that kind: `render_clip(path, picture=True, sound=False, seconds=90)`."""
    return _render


def _bar(index: int) -> np.ndarray:
    pixels = np.full((96, 128, 3), (40, 60, 90), np.uint8)
    pixels[:, 3 * index : 3 * index + 12] = (230, 180, 40)
    return pixels


def _render(path: Path, *, picture: bool, sound: bool, seconds: int = 4, rate: int = 44100) -> Path:
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", 10, options={"crf": "20"}) if picture else None
        audio = container.add_stream("aac", rate, layout="stereo") if sound else None
        if video:
            video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
            for index in range(10 * seconds):
                container.mux(video.encode(av.VideoFrame.from_ndarray(_bar(index % 38), "rgb24")))
            container.mux(video.encode())
        if audio:
            time = np.arange(seconds * rate) / rate
            tone = (0.3 * np.sin(2 * np.pi * (200 + 100 * time) * time)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), "fltp", "stereo")
            frame.sample_rate = rate
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


@pytest.fixture
def unprivileged(tmp_path: Path) -> Callable[[], None]:
    """Called in a child, takes the right to read every file from it, which root has."""
    if sys.platform != "linux":
        pytest.skip("takes rights away as Linux does")
    libc = ctypes.CDLL(None)

    def give_up() -> None:
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP

    (tmp_path / "locked").touch(0)
    if subprocess.run(["cat", tmp_path / "locked"], capture_output=True, preexec_fn=give_up).returncode == 0:
        pytest.skip("the right to read every file stays")
    (tmp_path / "locked").unlink()
    return give_up
