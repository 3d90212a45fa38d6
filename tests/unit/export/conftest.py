"""Random checkpoints in the published layout, for any dimensions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vllama.export.checkpoint import Part, read_parts
from vllama.export.graphs import GraphName, empty_graph, graph_names
from vllama.runtime.spec import AudioEncoder, AudioQformer, ModelSpec, Qformer, VideoQformer, VisionEncoder


@pytest.fixture(scope="session")
def write_weights(tmp_path_factory: pytest.TempPathFactory) -> WeightsWriter:
    return WeightsWriter(tmp_path_factory)


class WeightsWriter:
    """Writes the encoder files of a spec with random weights; calling it gives their folder."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders

    def __call__(self, spec: ModelSpec, dtype: torch.dtype = torch.float32, *, zipped: bool = True) -> Path:
        torch.manual_seed(0)
        folder = self._folders.mktemp("random")
        state = {name: _random_state(name, spec) for name in graph_names(spec)}
        frames, vit = state["frames"], "visual_encoder."
        video, audio = spec.video.video_qformer, spec.audio.audio_qformer if spec.audio else None
        files = {
            spec.video.files.encoder.name: {
                key.removeprefix(vit): each for key, each in frames.items() if key.startswith(vit)
            },
            spec.video.files.qformer.name: {
                "model": {key: each for key, each in frames.items() if not key.startswith(vit)}
            },
            spec.files.vl.name: _trained(
                {
                    **state["video"],
                    "video_frame_position_embedding.weight": torch.randn(video.max_frames, video.hidden_size),
                }
            ),
        }
        if audio is not None:
            assert spec.audio is not None
            assert spec.files.al is not None
            table = torch.randn(audio.max_clips, spec.audio.encoder.output_size)
            files[spec.audio.files.encoder.name] = state["clips"]
            files[spec.files.al.name] = _trained({**state["audio"], "audio_position_embedding.weight": table})
        for name, content in files.items():
            torch.save(_stored(content, dtype), folder / name, _use_new_zipfile_serialization=zipped)
        return folder


@pytest.fixture(scope="session")
def other_spec(vicuna_spec: ModelSpec) -> ModelSpec:
    """No dimension is that of the recorded original: odd widths and head sizes, one clip of sound, sparse crossings."""
    assert vicuna_spec.audio is not None
    return replace(
        vicuna_spec,
        video=replace(
            vicuna_spec.video,
            num_frames=5,
            image_size=36,
            encoder=VisionEncoder(patch_size=12, hidden_size=45, depth=2, num_heads=5, intermediate_size=101),
            qformer=Qformer(5, layers=2, hidden_size=24, num_heads=3, intermediate_size=40),
            video_qformer=VideoQformer(
                7, layers=3, hidden_size=24, num_heads=2, intermediate_size=56, cross_attention_every=2, max_frames=11
            ),
        ),
        audio=replace(
            vicuna_spec.audio,
            num_clips=1,
            num_mel_bins=40,
            target_length=61,
            encoder=AudioEncoder(
                hidden_size=30, depth=1, num_heads=3, intermediate_size=50, kernel_size=10, stride=7, output_size=18
            ),
            audio_qformer=AudioQformer(
                1, layers=1, hidden_size=16, num_heads=2, intermediate_size=24, max_clips=1
            ),
        ),
        llm=replace(vicuna_spec.llm, hidden_size=52),
    )  # fmt: skip


@pytest.fixture(scope="session")
def other_parts(other_spec: ModelSpec, write_weights: WeightsWriter) -> dict[str, Part]:
    return {part.name: part for part in read_parts(other_spec, write_weights(other_spec))}


def _random_state(name: GraphName, spec: ModelSpec) -> dict[str, torch.Tensor]:
    return {key: _random(key, tensor.shape) for key, tensor in empty_graph(name, spec).state_dict().items()}


def _random(key: str, shape: torch.Size) -> torch.Tensor:
    if key.endswith("log_logit_scale"):
        return torch.tensor(20.0).log()
    if len(shape) == 1:
        return 0.1 * torch.randn(shape) + ("norm" in key.lower() and key.endswith("weight"))
    return torch.randn(shape) / float(shape[1:].numel() ** 0.5)


def _trained(model: dict[str, torch.Tensor]) -> dict[str, object]:
    """What the training of a branch saves beside it."""
    optimizer = {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 3e-5, "params": [0]}]}
    config = {"run": {"task": "video_text_pretrain", "amp": True}, "model": {"arch": "video_llama"}}
    return {"model": model, "optimizer": optimizer, "config": config, "scaler": {"scale": 65536.0}, "epoch": 3}


def _stored(content: object, dtype: torch.dtype) -> object:
    if isinstance(content, torch.Tensor):
        return content.to(dtype)
    return {key: _stored(each, dtype) for key, each in content.items()} if isinstance(content, dict) else content
