"""How often the joined model is right, per kind of question, from torch features of held-out clips; with ablations."""

from __future__ import annotations

import enum
from collections import defaultdict
from dataclasses import replace
from random import Random

import torch
from sentencepiece import SentencePieceProcessor

from .cache import Features, Strange
from .dialogues import MediaKind, add_conversation, batch_of
from .instruct import Joined, embeds_of, media_row, show
from .kinds import IMAGE_MAKERS, MAKERS, questions
from .questions import Source, with_sources
from .stage_language import language_loss
from .world import starts_whole

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
    numbers = [number for number, clip in enumerate(world.clips) if kind != "image" or starts_whole(clip)]
    video: Source = "foreign" if verdict is Verdict.FOREIGN_PICTURES else "own"
    audio: Source = "none" if kind == "image" else "foreign" if verdict is Verdict.FOREIGN_SOUND else "own"
    for first in range(0, len(numbers), _ROWS):
        rows, shown = [], []
        for number in numbers[first : first + _ROWS]:
            media = show(kind, 0, video, audio, _changed(world, number, verdict, rng), odd, rng)
            row = media_row(tokenizer, media)
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
    """The features of clip `number` alone, changed."""
    other = rng.randrange(len(world))
    own, strange = (world[index : index + 1] for index in (number, other))
    if verdict is Verdict.SHUFFLED:
        return replace(own, frames=own.frames[:, rng.sample(range(8), 8)])
    if verdict is Verdict.OTHER_PICTURES:
        return replace(own, frames=strange.frames)
    if verdict is Verdict.OTHER_SOUND:
        return replace(own, sounds=strange.sounds)
    return own
