"""Facts lines with a fixed place for every fact: what the branches write, one token an embed.

The words are those of `facts`, in the same order. Where a thing, an event or a second word is missing, stops stand in
its place, so that the meaning of an embed does not depend on how long the things before it are.
"""

from __future__ import annotations

from collections.abc import Sequence

from sentencepiece import SentencePieceProcessor

from .facts import FOREIGN, NUMBERS, audio_facts, deed, eighth
from .sampler import zone
from .world import Clip, Thing

_THINGS, _EVENTS = 3, 2
_THING_WORDS, _EVENT_WORDS = 4, 6  # without the comma or stop that follows


def picture_line(things: Sequence[Thing]) -> list[str]:
    """Seventeen words: "two : red cross bottom . , blue star top left . . . . . ." and so on."""
    words = [NUMBERS[len(things)], ":"]
    for number in range(_THINGS):
        own = things[number : number + 1]
        named = [word for thing in own for word in (thing.colour, thing.shape, *zone(thing.x, thing.y).split())]
        words += [*_filled(named, _THING_WORDS), "," if number + 1 < len(things) else "."]
    return words


def video_line(clip: Clip) -> list[str]:
    """The things, then fourteen words of events: "red cross moves up at 3 . blue star grows . at 5 ."."""
    words = picture_line(clip.things)
    if not clip.events:
        return [*words, "nothing", "happens", "."]
    for event in clip.events[:_EVENTS]:
        thing = clip.things[event.thing]
        action = _filled(deed(event).split(), 2)
        words += [thing.colour, thing.shape, *action, "at", str(eighth(event.start)), "."]
    return words


def tokens_of(words: Sequence[str], tokenizer: SentencePieceProcessor, count: int) -> list[int]:
    """One token a word, cut or filled with stops to `count`."""
    ids = [tokenizer.piece_to_id(word if word in (".", ",", ":") else f"▁{word}") for word in words]
    assert tokenizer.unk_id() not in ids, words
    return (ids + [tokenizer.piece_to_id(".")] * count)[:count]


def audio_tokens(clip: Clip, tokenizer: SentencePieceProcessor, count: int) -> list[int]:
    """What is heard, as `audio_facts` says it."""
    return _ending(tokenizer.encode(audio_facts(clip)), tokenizer, count)


def foreign_tokens(tokenizer: SentencePieceProcessor, count: int) -> list[int]:
    """What stands for media from outside the world."""
    return _ending(tokenizer.encode(FOREIGN), tokenizer, count)


def _ending(ids: list[int], tokenizer: SentencePieceProcessor, count: int) -> list[int]:
    return (ids + [tokenizer.piece_to_id(".")] * count)[:count]


def _filled(words: list[str], count: int) -> list[str]:
    return (words + ["."] * count)[:count]
