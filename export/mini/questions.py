"""Questions about a clip with their answers and answer keys, and what is answered when media are missing or foreign."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from .facts import NUMBERS
from .world import COLOURS, SHAPES, Clip

Needs = Literal["video", "audio", "both"]
Source = Literal["own", "foreign", "none"]  # pictures or sounds of this world, of another, or none at all
REFUSAL = "That is outside my world."
NOTHING_SEEN, NOTHING_HEARD = "I see nothing.", "I hear nothing."
DIRECTIONS = ("left", "right", "up", "down")
PLACES = ("left", "right", "top", "bottom", "middle")
ACTIONS = ("moves", "grows", "shrinks", "rotates", "blinks", "bounces", "turns", "appears", "disappears", "still")
SOUNDS = ("low", "high", "rising", "falling", "tone", "sweep", "beep", "beeps", "noise", "knock", "chirp", "silence")


@dataclass(frozen=True)
class Question:
    """One question. key: plain words the answer has to say; rivals: those it must not say."""

    kind: str
    text: str
    answer: str
    key: frozenset[str]
    rivals: frozenset[str]
    needs: Needs

    def is_right(self, answer: str) -> bool:
        """Whether an answer says every word of the key and none of the rivals."""
        return self.words_are_right(answer.lower().translate(_MARKS).split())

    def words_are_right(self, words: Iterable[str]) -> bool:
        said = set(words)
        return self.key <= said and not self.rivals & said


Maker = Callable[[Clip, Random], Question | None]
_MARKS = str.maketrans(".,:;?!", "      ")


def question(
    kind: str, text: str, answer: str, key: Iterable[str], among: Iterable[str], needs: Needs = "video"
) -> Question:
    """A question whose rivals are all words of `among` that are not in the key."""
    words = frozenset(key)
    return Question(kind, text, answer, words, frozenset(among) - words, needs)


def yes_no(kind: str, text: str, said: str, found: str, truth: bool, needs: Needs = "video") -> Question:
    """A question whose answer repeats in plain words what it asks, then says what is the case, then yes or no.

    So the last word only has to compare words that stand close to each other; without the repetition it stayed a guess.
    """
    word = "yes" if truth else "no"
    answer = f"{said}? {found[0].upper()}{found[1:]}, so {word}."
    return question(kind, text, answer, [word], ("yes", "no"), needs)


def with_sources(asked: Question, video: Source, audio: Source) -> Question:
    """The same question, answered with what there is to see and to hear."""
    used = {"video": (video,), "audio": (audio,), "both": (video, audio)}[asked.needs]
    if "foreign" in used:
        kind, answer, key = "refusal", REFUSAL, frozenset(("outside", "world"))
    elif asked.needs != "audio" and video == "none":
        kind, answer, key = "nothing", NOTHING_SEEN, frozenset(("nothing",))
    elif asked.needs != "video" and audio == "none":
        kind, answer, key = "nothing", NOTHING_HEARD, frozenset(("nothing",))
    else:
        return asked
    every = {*COLOURS, *SHAPES, *DIRECTIONS, *PLACES, *ACTIONS, *SOUNDS, *NUMBERS, "yes", "no"}
    return replace(asked, kind=kind, answer=answer, key=key, rivals=frozenset(every))
