"""The first stage of words: tokenizer and language model, trained on facts in place of media; resumable."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from torch.nn import functional as F

from .dialogues import Batch, batch_of, sample_long_row, sample_row
from .llama import Llama, LlamaShape, start_weights, write_hf
from .sampler import HELD_OUT
from .tokenizer import read_tokenizer, train_tokenizer

ROWS, ROOM = 8, 256  # rows of a batch, tokens of a row
_RATE, _WARM_UP, _FLAT = 1e-3, 100, 0.6
_SAVE_SECONDS = 180.0
_AVERAGED = 100  # steps whose weights are averaged: single steps at the full rate forget and learn again
_NOISE = 0.15  # of each embedding channel (std 0.7): what media put in place of words is never exact
_LONG = 0.08  # share of batches about long clips, of half as many rows: they are twice as long
_CHECKED = 96  # rows of held-out clips that are asked at every checkpoint
_SHAPE_STEP = 256  # answer tokens are padded to a multiple of it, so that few shapes of matrices occur


@dataclass
class Progress:
    """seconds: of training so far, evaluation and pauses left out; errors: running share of wrong answers per kind."""

    steps: int = 0
    seconds: float = 0.0
    errors: dict[str, float] = field(default_factory=dict)


def train_language(work: Path, minutes: float = 170.0) -> Path:
    """Train for `minutes` in all, going on from the last checkpoint in `work`.

    Returns:
        The HF folder, renewed at every checkpoint; it holds the average of the last weights.
    """
    work.mkdir(parents=True, exist_ok=True)
    folder, checkpoint = work / "hf", work / "language.pt"
    if not (folder / "tokenizer.model").exists():
        train_tokenizer(folder)
    tokenizer = read_tokenizer(folder)
    llama = Llama(LlamaShape(vocab_size=tokenizer.get_piece_size()))
    start_weights(llama)
    matrices = [weight for weight in llama.parameters() if weight.dim() > 1]
    rest = [weight for weight in llama.parameters() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, _RATE, betas=(0.9, 0.98))
    progress, average = Progress(), deepcopy(llama)
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        llama.load_state_dict(saved["llama"])
        average.load_state_dict(saved.get("average", saved["llama"]))
        optimizer.load_state_dict(saved["optimizer"])
        progress = Progress(**saved["progress"])
    _train(llama, average, optimizer, tokenizer, progress, minutes, checkpoint, folder)
    return folder


def _train(
    llama: Llama,
    average: Llama,
    optimizer: torch.optim.Optimizer,
    tokenizer: SentencePieceProcessor,
    progress: Progress,
    minutes: float,
    checkpoint: Path,
    folder: Path,
) -> None:
    rng = Random(progress.steps)  # below HELD_OUT; another stretch of clips after every resumption
    losses: list[float] = []
    since = time.monotonic()
    last_save, last_log = progress.seconds, progress.steps
    while progress.seconds < 60 * minutes:
        began = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = _RATE * _schedule(progress, minutes)
        weights = {kind: 0.06 + error for kind, error in progress.errors.items()}
        batch = _sample_batch(tokenizer, rng, weights)
        embeds = llama.embed(batch.tokens)
        loss, right = language_loss(llama, embeds + _NOISE * torch.randn_like(embeds), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(llama.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(average.parameters()), list(llama.parameters()), 1 / min(_AVERAGED, progress.steps + 1)
            )
        for asked, was_right in zip(batch.asked, right.tolist(), strict=True):
            error = progress.errors.get(asked.kind, 0.9)
            progress.errors[asked.kind] = error + 0.01 * ((not was_right) - error)
        losses.append(loss.item())
        progress.steps += 1
        progress.seconds += time.monotonic() - began
        if progress.steps - last_log >= 100:
            speed = 100 / (time.monotonic() - since)
            since = time.monotonic()
            print(
                f"{time.strftime('%H:%M:%S')} step {progress.steps} minute {progress.seconds / 60:.1f} "
                f"loss {sum(losses) / len(losses):.4f} rate {optimizer.param_groups[0]['lr']:.2e} {speed:.2f} steps/s",
                flush=True,
            )
            losses, last_log = [], progress.steps
        if progress.seconds - last_save >= _SAVE_SECONDS or progress.seconds >= 60 * minutes:
            last_save = progress.seconds
            _save(llama, average, optimizer, progress, checkpoint)
            write_hf(average, folder)
            print(table_of(accuracy(average, tokenizer, _CHECKED)), flush=True)


def _sample_batch(tokenizer: SentencePieceProcessor, rng: Random, weights: Mapping[str, float]) -> Batch:
    if rng.random() < _LONG:
        return batch_of([sample_long_row(tokenizer, rng) for _ in range(ROWS // 2)])
    return batch_of([sample_row(tokenizer, rng, ROOM, weights) for _ in range(ROWS)])


def language_loss(llama: Llama, embeds: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the answers; and which of them are right in every token, as greedy decoding would give them.

    A question counts with the square root of its answer's length: an average per token forgets the short ones, one per
    question the long ones.

    Args:
        embeds: (b, n, hidden) of batch.tokens, with the embeds of media in their places.

    Returns:
        A scalar; bool (number of questions,).
    """
    with torch.autocast("cpu", torch.bfloat16):
        hidden = llama(embeds, batch.positions, batch.mask)
        spare = -len(batch.at) % _SHAPE_STEP
        logits = llama.lm_head(hidden.flatten(0, 1)[F.pad(batch.at, (0, spare))])[: len(batch.at)].float()
    losses = F.cross_entropy(logits, batch.targets, reduction="none")
    lengths = torch.bincount(batch.owners, minlength=len(batch.asked)).float()
    weights = lengths.rsqrt()[batch.owners]
    wrong = torch.zeros(len(batch.asked)).index_add_(0, batch.owners, (logits.argmax(-1) != batch.targets).float())
    return (losses * weights).sum() / weights.sum(), wrong == 0


@torch.no_grad()
def accuracy(llama: Llama, tokenizer: SentencePieceProcessor, rows: int) -> dict[str, tuple[int, int]]:
    """Right answers and questions per kind, on held-out clips: every token of the answer has to be right."""
    rng = Random(HELD_OUT)
    found: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for _ in range(math.ceil(rows / ROWS)):
        long = rng.random() < _LONG
        batch = batch_of(
            [sample_long_row(tokenizer, rng) if long else sample_row(tokenizer, rng, 2 * ROOM, {}) for _ in range(ROWS)]
        )
        _, right = language_loss(llama, llama.embed(batch.tokens), batch)
        for asked, was_right in zip(batch.asked, right.tolist(), strict=True):
            hits, total = found[asked.kind]
            found[asked.kind] = (hits + int(was_right), total + 1)
    return dict(found)


def table_of(found: Mapping[str, tuple[int, int]]) -> str:
    """One line per six kinds: percent right and the number asked."""
    cells = [f"{kind} {100 * hits / total:.0f} ({total})" for kind, (hits, total) in sorted(found.items())]
    return "\n".join("  " + " | ".join(cells[i : i + 6]) for i in range(0, len(cells), 6))


def _schedule(progress: Progress, minutes: float) -> float:
    """The share of the full rate: up, flat, then down to a fiftieth as a cosine."""
    done = progress.seconds / (60 * minutes)
    if done < _FLAT:
        return min(1.0, (progress.steps + 1) / _WARM_UP)
    return 0.02 + 0.49 * (1 + math.cos(math.pi * (done - _FLAT) / (1 - _FLAT)))


def _save(llama: Llama, average: Llama, optimizer: torch.optim.Optimizer, progress: Progress, checkpoint: Path) -> None:
    weights = {"llama": llama.state_dict(), "average": average.state_dict()}
    part = checkpoint.with_suffix(".part")
    torch.save({**weights, "optimizer": optimizer.state_dict(), "progress": vars(progress)}, part)
    part.replace(checkpoint)
