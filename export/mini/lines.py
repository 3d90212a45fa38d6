"""Facts lines with a fixed place for every fact: what the branches write, one token an embed.

The words are those of `facts`, in the same order. Where a thing, an event or a second word is missing, stops stand in
its place, so that the meaning of an embed does not depend on how long the things before it are. In front of each thing
stands its whole place as one token, in front of each event its deed: attention finds what follows a word it knows far
sooner than what precedes it, and "what is on the left?" asks for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from sentencepiece import SentencePieceProcessor

from .facts import FOREIGN, NUMBERS, audio_facts, deed, eighth
from .sampler import ZONES, zone
from .world import Action, Clip, Thing

_THINGS, _EVENTS = 3, 2
_THING_WORDS = 5
PICTURE_WORDS = 1 + _THINGS * _THING_WORDS
_UNWRITTEN = [code for code in range(1, 32) if not chr(code).isspace()]  # control characters: no question has them
_CODES = {f"<{words}>": code for code, words in zip(_UNWRITTEN, (*ZONES, *get_args(Action)), strict=False)}


def picture_line(things: Sequence[Thing]) -> list[str]:
    """Sixteen words: "two <bottom> red cross bottom . <top left> blue star top left . . . . ." and so on."""
    words = [NUMBERS[len(things)]]
    for thing in things[:_THINGS]:
        at = zone(thing.x, thing.y)
        words += _filled([f"<{at}>", thing.colour, thing.shape, *at.split()], _THING_WORDS)
    return _filled(words, PICTURE_WORDS)


def video_line(clip: Clip) -> list[str]:
    """The things, then the events: "<moves up> red cross moves up at 3 <grows> blue star grows . at 5"."""
    words = picture_line(clip.things)
    if not clip.events:
        return [*words, ".", "nothing", "happens"]
    for event in clip.events[:_EVENTS]:
        thing, done = clip.things[event.thing], _filled(deed(event).split(), 2)
        words += [f"<{event.action}>", thing.colour, thing.shape, *done, "at", str(eighth(event.start))]
    return words


def tokens_of(words: Sequence[str], tokenizer: SentencePieceProcessor, count: int) -> list[int]:
    """One token a word, cut or filled with stops to `count`."""
    ids = [tokenizer.piece_to_id(_piece(word)) for word in words]
    assert tokenizer.unk_id() not in ids, words
    return (ids + [tokenizer.piece_to_id(".")] * count)[:count]


def audio_tokens(clip: Clip, tokenizer: SentencePieceProcessor, count: int) -> list[int]:
    """What is heard, as `audio_facts` says it."""
    return _ending(tokenizer.encode(audio_facts(clip)), tokenizer, count)


def foreign_tokens(tokenizer: SentencePieceProcessor, count: int) -> list[int]:
    """What stands for media from outside the world."""
    return _ending(tokenizer.encode(FOREIGN), tokenizer, count)


def _piece(word: str) -> str:
    if word.startswith("<"):
        return f"<0x{_CODES[word]:02X}>"
    return word if word == "." else f"▁{word}"


def _ending(ids: list[int], tokenizer: SentencePieceProcessor, count: int) -> list[int]:
    return (ids + [tokenizer.piece_to_id(".")] * count)[:count]


def _filled(words: list[str], count: int) -> list[str]:
    return (words + ["."] * count)[:count]
