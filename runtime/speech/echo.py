"""Somebody else, or one's own voice that comes back from the loudspeaker: told apart by how loud it is."""

from __future__ import annotations

from collections import deque
from statistics import median

import numpy as np

from ..types import Float32

_SMOOTH = 15  # windows, half a second: the median over them passes over a clap, and the pauses between syllables
_LEAST = 20  # windows of the voice
_KEPT = 300  # windows, ten seconds
_LATE = 30  # windows, a second: whoever interrupts is not learned as the voice while he is only getting louder
_LOUDER = 1.3  # times as loud as the loudest of it


class Echo:
    """Learns how loud the own voice comes back, and lets through only what is clearly louder.

    A network that hears speech hears it in a loudspeaker, too, so its probability says nothing here. Until the own
    voice was heard for two seconds, nothing is let through. Of 24 interruptions 24 are heard that are 9 dB louder in
    the microphone than the loudspeaker, 21 at 6 dB, 1 at 0 dB; of 24 answers none is taken for somebody
    (`tests/bench/bench_speech.py`).
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_SMOOTH)
        self._learning: deque[float] = deque()
        self._levels: deque[float] = deque(maxlen=_KEPT)

    def hear(self, window: Float32) -> bool:
        """The next window (n,) while the own voice sounds: whether it is louder than that."""
        self._recent.append(float(np.sqrt(np.mean(np.square(window)))))
        return len(self._levels) >= _LEAST and self._level > _LOUDER * max(self._levels)

    def learn(self, *, proved: bool = False) -> None:
        """The window heard last was the own voice, probably, or as has proved."""
        self._learning.append(self._level)
        while len(self._learning) > (0 if proved else _LATE):
            self._levels.append(self._learning.popleft())

    @property
    def _level(self) -> float:
        return median(self._recent)
