"""How often to encode what comes from a live source: as often as wanted, or as the machine can hold."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median

_FREE_SHARE = 0.5  # of the time may go into encoding
_ANSWERING_SHARE = 0.2  # while the language model answers
_SLOWEST_SECONDS = 5.0  # between two, however dear they are: an answer does not stop the seeing
_MEASURED = 5  # the median of so many: opening a graph makes the first one dear


class Pace:
    """The time from one piece to the next, from what the last ones cost.

    Args:
        wanted: seconds, at the least.
        answers: whether the language model is at work.
    """

    def __init__(self, wanted: float, answers: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._answers = answers
        self._costs: deque[float] = deque(maxlen=_MEASURED)

    def took(self, seconds: float) -> None:
        """One more was encoded, in so many seconds by the clock."""
        self._costs.append(seconds)

    @property
    def interval(self) -> float:
        """Seconds from the beginning of one to the beginning of the next."""
        share = _ANSWERING_SHARE if self._answers() else _FREE_SHARE
        held = median(self._costs) / share if self._costs else 0.0
        return max(self._wanted, min(held, _SLOWEST_SECONDS))
