"""The two branches between frozen encoders and frozen language model, and their first lessons: facts lines.

Stage 1, video to text: what the language model reads in place of media while it learns from text is a facts line, so
the video Q-Former learns to write that line, one token an embed, into the same place. Stage 3 does so for the sound.
"""

from __future__ import annotations

from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn
from torch.nn import functional

from vllama.runtime.spec import ModelSpec

from ..graphs import AudioGraph, VideoGraph
from . import stage
from .cache import Features, Strange
from .lines import PICTURE_WORDS, audio_tokens, foreign_tokens, picture_line, tokens_of, video_line
from .llama import CONSTANT
from .start import linear_layers
from .world import starts_whole

VIDEO_TEXT = stage.Plan("video-text", 5200, 1.5e-3, flat=0.6, thawed=("video",))
AUDIO_TEXT = stage.Plan("audio-text", 2200, 1.5e-3, flat=0.6, thawed=("audio",))
_BATCH = 40
_NOISE = 0.05  # on cached features: the same picture never comes back the same from a codec
_SHARPNESS = 0.12


class Branches(nn.Module):
    """Both branches with their position tables, under the names of the published files."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert spec.audio is not None
        self.video, self.audio = VideoGraph(spec), AudioGraph(spec)
        self.video_frame_position_embedding = nn.Embedding(
            spec.video.video_qformer.max_frames, spec.video.qformer.hidden_size
        )
        self.audio_position_embedding = nn.Embedding(spec.audio.audio_qformer.max_clips, spec.audio.encoder.output_size)
        _initialise(self)

    def see(self, features: Tensor) -> Tensor:
        """(n, t, q, width) -> (n, query_tokens, hidden of the language model)."""
        positions = self.video_frame_position_embedding.weight[: features.shape[1]]
        tokens = (features + positions[None, :, None]).flatten(1, 2)
        out: Tensor = self.video.llama_proj(self.video.video_Qformer(self.video.video_query_tokens, tokens))
        return out

    def hear(self, features: Tensor) -> Tensor:
        """(n, s, width) -> (n, query_tokens, hidden of the language model)."""
        out: Tensor = self.audio(features, self.audio_position_embedding.weight[: features.shape[1]])
        return out


def line_loss(embeds: Tensor, tokens: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """How far embeds (n, m, hidden) are from the rows of `table` for tokens (n, m): as a choice among all rows and as a
    distance; and which are nearest to the right one, bool (n, m)."""
    logits = _SHARPNESS * (embeds @ table.T - 0.5 * table.square().sum(-1))
    choice = functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    return choice + 0.5 * functional.mse_loss(embeds, table[tokens]), logits.argmax(-1) == tokens


def train_video_text(
    spec: ModelSpec,
    work: Path,
    tokenizer: SentencePieceProcessor,
    table: Tensor,
    world: Features,
    held: Features,
    odd: Strange,
) -> Branches:
    """Stage 1 into work/video-text.pt. table: embeddings of the language model."""
    torch.manual_seed(0)
    branches = Branches(spec)
    count = spec.video.video_qformer.query_tokens
    lines = torch.tensor([tokens_of(video_line(clip), tokenizer, count) for clip in world.clips])
    pictures, still = picture_lines(world, tokenizer, count)
    foreign = torch.tensor(foreign_tokens(tokenizer, count))

    def learn(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(world), (_BATCH,), generator=generator)
        strange = torch.randint(len(odd.frames), (_BATCH // 10,), generator=generator)
        features = torch.cat((world.frames[rows], odd.frames[strange])).float()
        tokens = torch.cat((lines[rows], foreign.expand(len(strange), -1)))
        single = still[torch.randint(len(still), (_BATCH // 8,), generator=generator)]
        first = torch.cat((world.frames[single, :1], odd.frames[strange[:2], :1])).float()
        with torch.autocast("cpu", torch.bfloat16):
            seen = branches.see(_noisy(features, generator)).float()
            glimpsed = branches.see(_noisy(first, generator)).float()
        loss, right = line_loss(seen, tokens, table)
        other, _ = line_loss(glimpsed, torch.cat((pictures[single], foreign.expand(2, -1))), table)
        whole = right[: len(rows)].all(1).float().mean()
        return loss + 0.15 * other, {"token": float(right.float().mean()), "line": float(whole)}

    def report(step: int) -> str:
        return line_figures(branches, tokenizer, table, held)

    stage.run(VIDEO_TEXT, branches, learn, work, report, 300)
    return branches


def train_audio_text(
    branches: Branches,
    work: Path,
    tokenizer: SentencePieceProcessor,
    table: Tensor,
    world: Features,
    held: Features,
    odd: Strange,
) -> None:
    """The dense part of stage 3 into work/audio-text.pt; the video branch stays as it is."""
    count = branches.audio.audio_query_tokens.shape[1]
    lines = torch.tensor([audio_tokens(clip, tokenizer, count) for clip in world.clips])
    foreign = torch.tensor(foreign_tokens(tokenizer, count))

    def learn(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(world), (2 * _BATCH,), generator=generator)
        strange = torch.randint(len(odd.sounds), (_BATCH // 5,), generator=generator)
        features = torch.cat((world.sounds[rows], odd.sounds[strange])).float()
        tokens = torch.cat((lines[rows], foreign.expand(len(strange), -1)))
        heard = branches.hear(_noisy(features, generator))
        loss, right = line_loss(heard, tokens, table)
        return loss, {"token": float(right.float().mean()), "line": float(right[: len(rows)].all(1).float().mean())}

    stage.run(AUDIO_TEXT, branches, learn, work, lambda step: sound_figures(branches, tokenizer, table, held), 300)


def picture_lines(world: Features, tokenizer: SentencePieceProcessor, count: int) -> tuple[Tensor, Tensor]:
    """Facts of the first picture of every clip, and the clips in whose first picture nothing is missing."""
    lines = torch.tensor([tokens_of(picture_line(clip.things), tokenizer, count) for clip in world.clips])
    whole = torch.tensor([starts_whole(clip) for clip in world.clips])
    return lines, whole.nonzero()[:, 0]


@torch.no_grad()
def line_figures(branches: Branches, tokenizer: SentencePieceProcessor, table: Tensor, held: Features) -> str:
    """Shares of right tokens by their place in the line, and of whole lines, on held-out clips."""
    count = branches.video.video_query_tokens.shape[1]
    tokens = torch.tensor([tokens_of(video_line(clip), tokenizer, count) for clip in held.clips])
    parts = zip(torch.split(held.frames, 100), torch.split(tokens, 100), strict=True)
    right = torch.cat([line_loss(branches.see(seen.float()), line, table)[1] for seen, line in parts])
    things, events = (part.all(1).float().mean() for part in right.tensor_split([PICTURE_WORDS], 1))
    by_slot = " ".join(f"{100 * share:.0f}" for share in right.float().mean(0).tolist())
    whole = right.all(1).float().mean()
    return f"held out: things {things:.3f} events {events:.3f} line {whole:.3f}; by place {by_slot}"


@torch.no_grad()
def sound_figures(branches: Branches, tokenizer: SentencePieceProcessor, table: Tensor, held: Features) -> str:
    count = branches.audio.audio_query_tokens.shape[1]
    tokens = torch.tensor([audio_tokens(clip, tokenizer, count) for clip in held.clips])
    right = line_loss(branches.hear(held.sounds.float()), tokens, table)[1]
    kind = right[:, :2].all(1).float().mean()
    return f"held out: token {right.float().mean():.4f} kind {kind:.3f} line {right.all(1).float().mean():.3f}"


def _noisy(features: Tensor, generator: torch.Generator) -> Tensor:
    return features + _NOISE * torch.randn(features.shape, generator=generator)


@torch.no_grad()
def _initialise(branches: Branches) -> None:
    linear_layers(branches)
    for queries in (branches.video.video_query_tokens, branches.audio.audio_query_tokens):
        nn.init.normal_(queries, std=1.0)
    for table in (branches.video_frame_position_embedding, branches.audio_position_embedding):
        nn.init.normal_(table.weight, std=0.7)
    for projection in (branches.video.llama_proj, branches.audio.audio_llama_proj):
        projection.weight.mul_(0.7)
        projection.bias[0] = CONSTANT  # heads of the language model read it
