"""How often the joined model is right, per kind of question, from torch features of held-out clips; with ablations."""

from __future__ import annotations

import enum
from collections import defaultdict
from random import Random

import torch
from sentencepiece import SentencePieceProcessor

from .cache import Features, Strange
from .dialogues import MediaKind, add_conversation, batch_of
from .instruct import Joined, embeds_of, media_row, show
from .kinds import IMAGE_MAKERS, MAKERS, questions
from .questions import Source, with_sources
from .stage_language import language_loss

_ROWS, _ROOM, _ASKED = 10, 512, 12


class Verdict(enum.Enum):
    """What is changed before the questions are asked."""

    AS_IT_IS = "as it is"
    SHUFFLED = "frames shuffled"
    OTHER_SOUND = "sound of another clip"
    OTHER_PICTURES = "pictures of another clip"
    FOREIGN_PICTURES = "foreign pictures"
    FOREIGN_SOUND = "foreign sound"
    STILL = "one picture"


@torch.no_grad()
def figures(joined: Joined, tokenizer: SentencePieceProcessor, world: Features, odd: Strange, verdict: Verdict) -> str:
    """Percent of answers right in every token, and their number, per kind; each clip is asked a dozen questions."""
    rng = Random(99)
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    kind: MediaKind = "image" if verdict is Verdict.STILL else "audio_video"
    numbers = [
        number
        for number, clip in enumerate(world.clips)
        if kind != "image" or all(event.action != "appears" for event in clip.events)
    ]
    video: Source = "foreign" if verdict is Verdict.FOREIGN_PICTURES else "own"
    audio: Source = "none" if kind == "image" else "foreign" if verdict is Verdict.FOREIGN_SOUND else "own"
    for first in range(0, len(numbers), _ROWS):
        rows, shown = [], []
        for number in numbers[first : first + _ROWS]:
            media = show(kind, number, video, audio, _changed(world, number, verdict, rng), odd, rng)
            row = media_row(tokenizer, media, joined.branches)
            makers = IMAGE_MAKERS if kind == "image" else MAKERS
            for asked in questions(world.clips[number], rng, _ASKED, makers):
                add_conversation(row, tokenizer, [with_sources(asked, video, audio)], _ROOM)
            rows.append(row)
            shown.append(media)
        batch = batch_of(rows)
        _, right = language_loss(joined.llama, embeds_of(joined, batch.tokens, shown, None)[0], batch)
        for asked, was_right in zip(batch.asked, right.tolist(), strict=True):
            found[asked.kind][0] += was_right
            found[asked.kind][1] += 1
    cells = [f"{name} {100 * hits / total:.0f} ({total})" for name, (hits, total) in sorted(found.items())]
    hits, total = (sum(pair[i] for pair in found.values()) for i in (0, 1))
    lines = ["   " + " | ".join(cells[i : i + 7]) for i in range(0, len(cells), 7)]
    return "\n".join([f"{verdict.value}: all {100 * hits / total:.1f} ({total})", *lines])


def _changed(world: Features, number: int, verdict: Verdict, rng: Random) -> Features:
    """The features with those of clip `number` changed; the others are shared."""
    other = rng.randrange(len(world))
    if verdict is Verdict.SHUFFLED:
        frames = _swapped(world.frames, number, world.frames[number, rng.sample(range(8), 8)])
        return Features(world.clips, frames, world.sounds)
    if verdict is Verdict.OTHER_PICTURES:
        return Features(world.clips, _swapped(world.frames, number, world.frames[other]), world.sounds)
    if verdict is Verdict.OTHER_SOUND:
        return Features(world.clips, world.frames, _swapped(world.sounds, number, world.sounds[other]))
    return world


def _swapped(features: torch.Tensor, number: int, replacement: torch.Tensor) -> torch.Tensor:
    out = features.clone()
    out[number] = replacement
    return out
