"""The recorded original, as every test sees it.

The reference folder is `$VLLAMA_REFERENCE`, else `../shared/reference` where it is, else the copy under
`tests/golden`, which lacks the pictures (they are not ours to ship). Any folder of the same layout will do: the suite
takes every dimension from its `tiny/config.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vllama.runtime.spec import ModelSpec, find_spec

_HERE = Path(__file__).parent
_SHARED = _HERE.parents[1] / "shared"
Golden = dict[str, np.ndarray]


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
    return json.loads((reference / "tiny" / "config.json").read_text("utf-8"))


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
            f"intermediate_size = {q['intermediate_size']}, cross_attention_every = {q['cross_attention_freq']}{extra} }}"
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
