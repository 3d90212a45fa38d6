"""Stages 2 and 3, and the polish: questions about cached clips, answered by the language model behind the branches.

Every row of a batch is one prompt with its media embeds and several conversations behind it that do not see each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn

from . import stage
from .branches import Branches, line_loss
from .cache import Features, Strange
from .dialogues import (
    AUDIO_EMBEDS,
    AUDIO_PLACE,
    VIDEO_EMBEDS,
    VIDEO_PLACE,
    MediaKind,
    Row,
    batch_of,
    fill_row,
    heard_tokens,
    seen_tokens,
    sources_of,
    start_row,
)
from .llama import Llama
from .questions import Source
from .stage_language import language_loss
from .world import Clip, starts_whole

VIDEO_INSTRUCT = stage.Plan("video-instruct", 50, 2e-4, flat=0.2, warmup=10, muon=False, thawed=("branches.video",))
AUDIO_INSTRUCT = stage.Plan("audio-instruct", 25, 2e-4, flat=0.2, warmup=5, muon=False, thawed=("branches.audio",))
POLISH = stage.Plan("polish", 240, 3e-4, flat=0.2, warmup=15, muon=False, slow=("llama", 0.7))
_ROWS, _ROOM = 12, 256
_FOREIGN = 0.08  # share of rows whose pictures (or sounds) are not of this world
_DENSE = 0.3  # weight of the facts lines beside the answers
_NOISE = 0.05
Kinds = Mapping[MediaKind, float]
VIDEO_KINDS: Kinds = {"video": 0.85, "image": 0.15}
AUDIO_KINDS: Kinds = {"audio_video": 0.75, "audio": 0.25}
ALL_KINDS: Kinds = {"audio_video": 0.64, "video": 0.14, "audio": 0.1, "image": 0.09, "text": 0.03}


class Joined(nn.Module):
    """Branches and language model."""

    def __init__(self, branches: Branches, llama: Llama) -> None:
        super().__init__()
        self.branches, self.llama = branches, llama


@dataclass(frozen=True)
class Shown:
    """What one row shows: features of pictures (t, q, width) and of sounds (s, width), None without; where from."""

    kind: MediaKind
    clip: Clip
    video: Source
    audio: Source
    pictures: Tensor | None
    sounds: Tensor | None

    def seen(self, tokenizer: SentencePieceProcessor) -> list[int]:
        return seen_tokens(self.clip, self.kind, self.video, tokenizer)

    def heard(self, tokenizer: SentencePieceProcessor) -> list[int]:
        return heard_tokens(self.clip, self.audio, tokenizer)


def show(
    kind: MediaKind, number: int, video: Source, audio: Source, world: Features, odd: Strange, rng: Random
) -> Shown:
    """The media of a row: those of clip `number`, or foreign ones in their place."""
    pictures, sounds = world.frames[number], world.sounds[number]
    if video == "foreign":
        pictures = odd.frames[rng.randrange(len(odd.frames))]
    if audio == "foreign":
        sounds = odd.sounds[rng.randrange(len(odd.sounds))]
    shown_pictures = None if video == "none" else pictures[:1] if kind == "image" else pictures
    return Shown(kind, world.clips[number], video, audio, shown_pictures, None if audio == "none" else sounds)


def embeds_of(
    joined: Joined, tokens: Tensor, shown: Sequence[Shown], noise: torch.Generator | None
) -> tuple[Tensor, dict[int, Tensor], dict[int, Tensor]]:
    """Embeds of a batch of rows with the media in their places; and the media embeds of each row by its number."""
    llama, branches = joined.llama, joined.branches
    embeds = llama.embed(tokens)
    seen: dict[int, Tensor] = {}
    heard: dict[int, Tensor] = {}
    with torch.autocast("cpu", torch.bfloat16):
        for single in (False, True):
            rows = [i for i, row in enumerate(shown) if row.pictures is not None and (row.kind == "image") == single]
            if rows:
                features = _stacked([shown[i].pictures for i in rows], noise)
                seen |= dict(zip(rows, branches.see(features).float(), strict=True))
        rows = [i for i, row in enumerate(shown) if row.sounds is not None]
        if rows:
            heard |= dict(
                zip(rows, branches.hear(_stacked([shown[i].sounds for i in rows], noise)).float(), strict=True)
            )
    for place, media in ((VIDEO_PLACE, seen), (AUDIO_PLACE, heard)):
        if media:
            where = (tokens == place).nonzero()
            embeds = embeds.index_put((where[:, 0], where[:, 1]), torch.cat([media[row] for row in sorted(media)]))
    return embeds, seen, heard


def media_row(tokenizer: SentencePieceProcessor, shown: Shown) -> Row:
    """A prompt with places for its media."""
    video = [VIDEO_PLACE] * VIDEO_EMBEDS if shown.pictures is not None else []
    audio = [AUDIO_PLACE] * AUDIO_EMBEDS if shown.sounds is not None else []
    return start_row(tokenizer, shown.kind, video, audio)


def train_instruct(
    plan: stage.Plan, kinds: Kinds, joined: Joined, work: Path,
    tokenizer: SentencePieceProcessor, world: Features, odd: Strange, report: stage.Report,
) -> None:  # fmt: skip
    """What the plan thaws learns to answer, into work/<plan>.pt."""
    errors: dict[str, float] = {}

    def learn(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = Random(int(torch.randint(2**31, (1,), generator=generator)))
        weights = {kind: 0.06 + error for kind, error in errors.items()}
        rows, shown = [], []
        for _ in range(_ROWS):
            kind = rng.choices(list(kinds), list(kinds.values()))[0]
            number = _clip_for(kind, world, rng)
            sources = sources_of(kind, rng, _FOREIGN)
            media = show(kind, number, *sources, world, odd, rng)
            row = media_row(tokenizer, media)
            fill_row(row, tokenizer, media.clip, kind, sources, rng, _ROOM, weights)
            if row.answers:
                rows.append(row)
                shown.append(media)
        batch = batch_of(rows)
        embeds, seen, heard = embeds_of(joined, batch.tokens, shown, generator)
        loss, right = language_loss(joined.llama, embeds, batch)
        table = joined.llama.model.embed_tokens.weight.detach()
        for found, line in ((seen, Shown.seen), (heard, Shown.heard)):
            if found and next(iter(found.values())).requires_grad:
                lines = torch.tensor([line(shown[i], tokenizer) for i in sorted(found)])
                loss = loss + _DENSE * line_loss(torch.stack([found[i] for i in sorted(found)]), lines, table)[0]
        for asked, was_right in zip(batch.asked, right.tolist(), strict=True):
            error = errors.get(asked.kind, 0.5)
            errors[asked.kind] = error + 0.02 * ((not was_right) - error)
        return loss, {"right": float(right.float().mean())}

    stage.run(plan, joined, learn, work, report, 1000)


def _stacked(features: Sequence[Tensor | None], noise: torch.Generator | None) -> Tensor:
    stacked = torch.stack([part.float() for part in features if part is not None])
    return stacked if noise is None else stacked + _NOISE * torch.randn(stacked.shape, generator=noise)


def _clip_for(kind: MediaKind, world: Features, rng: Random) -> int:
    """Any clip; for a still, one in whose first picture nothing is missing."""
    while True:
        number = rng.randrange(len(world))
        if kind != "image" or starts_whole(world.clips[number]):
            return number
