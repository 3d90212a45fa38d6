"""What was said, cut out of a stream of sound by how likely it is, window by window, that somebody speaks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..types import Float32, Samples
from .voice_activity import SAMPLE_RATE, WINDOW

_PAUSE = 3  # windows of silence where an utterance that is too long may be cut


@dataclass(frozen=True)
class Rules:
    """When an utterance begins and ends.

    on, off: the probability that begins speech, and the lower one below which it pauses: one window between two
    syllables ends nothing. The others are seconds. least_speech: of speech, until it counts as such; a click is
    shorter. give_up: of silence, after which what was too short is forgotten. least_silence: that ends an utterance;
    people pause for less within a sentence. pad: that is kept before and after it, for soft consonants. longest: of
    one utterance; it is cut in its last pause then.
    """

    on: float = 0.5
    off: float = 0.35
    least_speech: float = 0.25
    give_up: float = 0.3
    least_silence: float = 0.7
    pad: float = 0.3
    longest: float = 30.0


RULES = Rules()


class Utterances:
    """Takes windows and their probabilities in turn, gives utterances; keeps no more than the longest of them.

    Attributes:
        speaking: somebody speaks; true as soon as enough was heard to be sure, until the utterance ends.
    """

    def __init__(self, rules: Rules = RULES) -> None:
        self._rules = rules
        self._least_speech, self._give_up, self._least_silence, self._pad, self._longest = (
            math.ceil(seconds * SAMPLE_RATE / WINDOW)
            for seconds in (rules.least_speech, rules.give_up, rules.least_silence, rules.pad, rules.longest)
        )
        self._windows: list[Float32] = []
        self._end = 0.0
        self.drop()

    def drop(self) -> None:
        """Forget what is being said."""
        self.speaking = False
        self._voiced = self._silent = self._cut = 0
        self._windows.clear()

    def push(self, window: Float32, end: float, probability: float) -> Samples | None:
        """The next window (512,), when it ended, and how likely it is speech; what was said, if that ended with it."""
        self._windows.append(window)
        self._end = end
        self._count(probability)
        if not self.speaking and self._silent >= self._give_up:
            self._voiced = self._silent = 0
        if not self._voiced:
            del self._windows[: -self._pad]
        elif self._voiced >= self._least_speech:
            self.speaking = True
        if self.speaking and self._silent >= self._least_silence:
            return self.finish()
        if len(self._windows) >= self._longest:
            return self._take(self._cut or len(self._windows))
        return None

    def finish(self) -> Samples | None:
        """What was said until now, if anything; no more comes."""
        said = None
        if self.speaking:
            said = self._take(len(self._windows) - max(0, self._silent - self._pad))
        self.drop()
        return said

    def _count(self, probability: float) -> None:
        if probability >= (self._rules.off if self._voiced else self._rules.on):
            self._voiced, self._silent = self._voiced + 1, 0
        elif self._voiced:
            self._silent += 1
            if self._silent >= _PAUSE:
                self._cut = len(self._windows) - self._silent // 2

    def _take(self, count: int) -> Samples:
        """The first windows; the others begin the next utterance."""
        start = self._end - len(self._windows) * WINDOW / SAMPLE_RATE
        taken = np.concatenate(self._windows[:count])
        del self._windows[:count]
        self._cut = 0
        return Samples(start, taken[None], SAMPLE_RATE)
