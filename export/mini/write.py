"""Trained parts -> the files of the original: what `vllama export` reads for the 7B, it reads for the miniature."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from vllama.runtime.spec import ModelSpec

from ..graphs import ClipsGraph, FramesGraph
from .branches import Branches
from .llama import Llama, write_hf

_VIT = "visual_encoder."
_TOKENIZER = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")


def write_weights(
    spec: ModelSpec,
    out: Path,
    frames: FramesGraph,
    clips: ClipsGraph,
    branches: Branches,
    llama: Llama,
    tokenizer: Path,
) -> None:
    """Write every file that the entry of the miniature names into `out`, in fp16.

    tokenizer: the folder with its three files.
    """
    assert spec.audio is not None
    assert spec.files.al is not None
    out.mkdir(parents=True, exist_ok=True)
    picture = _half(frames.state_dict())
    vit = {key.removeprefix(_VIT): tensor for key, tensor in picture.items() if key.startswith(_VIT)}
    torch.save(vit, out / spec.video.files.encoder.name)
    rest = {key: tensor for key, tensor in picture.items() if not key.startswith(_VIT)}
    torch.save({"model": rest}, out / spec.video.files.qformer.name)
    torch.save(_half(clips.state_dict()), out / spec.audio.files.encoder.name)
    own = branches.state_dict()
    for name, position, file in (
        ("video.", "video_frame_position_embedding.weight", spec.files.vl),
        ("audio.", "audio_position_embedding.weight", spec.files.al),
    ):
        branch = {key.removeprefix(name): tensor for key, tensor in own.items() if key.startswith(name)}
        torch.save({"model": _half({**branch, position: own[position]})}, out / file.name)
    folder = out / spec.files.llm.name
    write_hf(deepcopy(llama).half(), folder)
    for name in _TOKENIZER:
        shutil.copyfile(tokenizer / name, folder / name)


def _half(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().half().clone() for key, tensor in state.items()}
