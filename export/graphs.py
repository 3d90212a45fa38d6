"""The four graphs of a bundle as torch modules: what goes in, what comes out, which axes are free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vllama.runtime.spec import ModelSpec

from .eva_vit import EvaVit
from .imagebind import ImageBindAudio
from .qformer import QformerModel, query_tokens

GraphName = Literal["frames", "video", "clips", "audio"]
_VISION_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Input:
    """One float32 input: its name, its shape with None for the free axis, and that axis' name."""

    name: str
    shape: tuple[int | None, ...]
    axis: str

    @property
    def free(self) -> int:
        """The index of the free axis."""
        return self.shape.index(None)

    def sized(self, size: int) -> tuple[int, ...]:
        """The shape at a size of the free axis."""
        return tuple(size if dim is None else dim for dim in self.shape)


class FramesGraph(nn.Module):
    """pixel_values (n, 3, H, W) -> frame_features (n, query_tokens, hidden_size), before the frame position."""

    output = "frame_features"

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        video = spec.video
        self.inputs = (Input("pixel_values", (None, 3, video.image_size, video.image_size), "n"),)
        self.visual_encoder = EvaVit(video.encoder, video.image_size)
        self.ln_vision = nn.LayerNorm(video.encoder.hidden_size, _VISION_NORM_EPS)
        self.query_tokens = query_tokens(video.qformer)
        self.Qformer = QformerModel(video.qformer, video.encoder.hidden_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        features: Tensor = self.Qformer(self.query_tokens, self.ln_vision(self.visual_encoder(pixel_values)))
        return features


class VideoGraph(nn.Module):
    """frame_features (1, t, q, hidden_size), positions (t, hidden_size) -> embeds (1, query_tokens, D).

    Source: Video-LLaMA 64888c0, video_llama/models/video_llama.py, encode_videoQformer_visual.
    """

    output = "embeds"

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        video, width = spec.video, spec.video.qformer.hidden_size
        self.inputs = (
            Input("frame_features", (1, None, video.qformer.query_tokens, width), "t"),
            Input("positions", (None, width), "t"),
        )
        self.video_query_tokens = query_tokens(video.video_qformer)
        self.video_Qformer = QformerModel(video.video_qformer, width)
        self.llama_proj = nn.Linear(width, spec.llm.hidden_size)

    def forward(self, frame_features: Tensor, positions: Tensor) -> Tensor:
        tokens = (frame_features + positions[None, :, None]).flatten(1, 2)  # frame outer, query inner
        embeds: Tensor = self.llama_proj(self.video_Qformer(self.video_query_tokens, tokens))
        return embeds


class ClipsGraph(ImageBindAudio):
    """fbank (n, 1, num_mel_bins, target_length) -> clip_features (n, output_size)."""

    output = "clip_features"

    def __init__(self, spec: ModelSpec) -> None:
        assert spec.audio is not None
        super().__init__(spec.audio)
        self.inputs = (Input("fbank", (None, 1, spec.audio.num_mel_bins, spec.audio.target_length), "n"),)


class AudioGraph(nn.Module):
    """clip_features (1, s, output_size), positions (s, output_size) -> embeds (1, query_tokens, D).

    Source: Video-LLaMA 64888c0, video_llama/models/video_llama.py, encode_audioQformer.
    """

    output = "embeds"

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert spec.audio is not None
        qformer, width = spec.audio.audio_qformer, spec.audio.encoder.output_size
        self.inputs = (Input("clip_features", (1, None, width), "s"), Input("positions", (None, width), "s"))
        self.audio_query_tokens = query_tokens(qformer)
        self.audio_Qformer = QformerModel(qformer, width)
        self.audio_llama_proj = nn.Linear(qformer.hidden_size, spec.llm.hidden_size)

    def forward(self, clip_features: Tensor, positions: Tensor) -> Tensor:
        tokens = clip_features + positions
        embeds: Tensor = self.audio_llama_proj(self.audio_Qformer(self.audio_query_tokens, tokens))
        return embeds


Graph = FramesGraph | VideoGraph | ClipsGraph | AudioGraph
_GRAPHS: dict[GraphName, type[Graph]] = {
    "frames": FramesGraph,
    "video": VideoGraph,
    "clips": ClipsGraph,
    "audio": AudioGraph,
}


def graph_names(spec: ModelSpec) -> list[GraphName]:
    """The graphs of a model: those of the picture, and those of the sound where it has an audio branch."""
    return ["frames", "video", "clips", "audio"] if spec.audio else ["frames", "video"]


def empty_graph(name: GraphName, spec: ModelSpec) -> Graph:
    """A graph without weights, whose `state_dict` tells what it needs."""
    with torch.device("meta"):
        return _GRAPHS[name](spec).eval()
