"""Between language and media: the language model learns to read lines with fixed places, as the branches write them.

Until here it has read facts lines of natural length. Nothing else changes: no media, the same questions.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn

from vllama.runtime.spec import ModelSpec

from . import stage
from .cache import clip_of
from .dialogues import Row, batch_of, start_row
from .instruct import ALL_KINDS, Shown, ask_about, sources_of
from .llama import Llama
from .sampler import HELD_OUT
from .stage_language import language_loss

LINES = stage.Plan("lines", 900, 5e-4, flat=0.4, warmup=30, muon=False)
_ROWS, _ROOM = 12, 256


class Reader(nn.Module):
    """The language model under the name it has in `Joined`."""

    def __init__(self, llama: Llama) -> None:
        super().__init__()
        self.llama = llama


def train_lines(llama: Llama, spec: ModelSpec, work: Path, tokenizer: SentencePieceProcessor) -> None:
    """The plan into work/lines.pt."""
    assert spec.audio is not None
    counts = spec.video.video_qformer.query_tokens, spec.audio.audio_qformer.query_tokens
    errors: dict[str, float] = {}
    llama.model.embed_tokens.requires_grad_(False)  # what the branches aim at, perhaps at this very time

    def learn(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = Random(int(torch.randint(2**31, (1,), generator=generator)))
        weights = {kind: 0.06 + error for kind, error in errors.items()}
        rows: list[Row] = []
        while len(rows) < _ROWS:
            kind = rng.choices(list(ALL_KINDS), list(ALL_KINDS.values()))[0]
            video, audio = sources_of(kind, rng)
            shown = Shown(kind, clip_of(rng.randrange(HELD_OUT)), video, audio, None, None)
            row = start_row(tokenizer, kind, shown.seen(tokenizer, counts[0]), shown.heard(tokenizer, counts[1]))
            ask_about(row, tokenizer, shown, shown.clip, (video, audio), rng, weights, _ROOM)
            if row.answers:
                rows.append(row)
        batch = batch_of(rows)
        loss, right = language_loss(llama, llama.embed(batch.tokens), batch)
        for asked, was_right in zip(batch.asked, right.tolist(), strict=True):
            error = errors.get(asked.kind, 0.5)
            errors[asked.kind] = error + 0.02 * ((not was_right) - error)
        return loss, {"right": float(right.float().mean())}

    def report(step: int) -> str:
        return " | ".join(f"{kind} {100 * (1 - error):.0f}" for kind, error in sorted(errors.items()))

    stage.run(LINES, Reader(llama), learn, work, report, 100)
