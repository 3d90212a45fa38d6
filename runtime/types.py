"""The carriers: what travels from a clip to an answer."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .errors import SpecError

Modality = Literal["video", "image", "audio"]
Long = Literal["frames", "memory", "segments", "map"]  # how a span of many frames is looked at: `Chat.ask`
Finish = Literal["stop", "length", "context", "cancelled"]  # why an answer ended: `Usage`
Float32 = NDArray[np.float32]
Features = NDArray[np.floating]  # of a frame or a stretch of sound: float32 as encoded, float16 as stored


@dataclass(frozen=True, eq=False)  # == of arrays has no truth value; so with all that hold some
class Frame:
    """One picture of a clip.

    pixels: uint8 (image_size, image_size, 3), RGB, upright. index: its number in display order.
    time: seconds from the start of the clip.
    """

    index: int
    time: float
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Samples:
    """A stretch of sound.

    data: float32 (channels, n), [-1, 1], at sample_rate Hz. start: seconds from the start of the clip.
    """

    start: float
    data: Float32
    sample_rate: int

    @property
    def end(self) -> float:
        """Seconds from the start of the clip."""
        return float(self.start + self.data.shape[1] / self.sample_rate)


_LARGEST = sys.float_info.max  # a whole number may lie beyond it, and is no infinity then
_BEFORE_MOMENT, _AFTER_MOMENT = 7.0, 1.0  # seconds: what the frames and the sound of a question cover without gaps


@dataclass(frozen=True)
class Span:
    """A stretch of time, in seconds from the start of the clip; `Span.last` counts from its end.

    One that ends where it starts is a moment: a question about it is about all that led up to it.

    Args:
        start: 0 or more, finite; below 0 only where end is 0: so many seconds before the end.
        end: start or more; infinity: the end of the clip.

    Raises:
        SpecError: they are no such times.
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        span = f"a span from {shown(self.start)} to {shown(self.end)} s is none"
        if not abs(self.start) <= _LARGEST:
            raise SpecError(f"{span}; let it start at a finite time")
        if not (self.end <= _LARGEST or self.end == math.inf):
            raise SpecError(f"{span}; let it end at a time, or at infinity for the end of the clip")
        if self.start > self.end:
            raise SpecError(f"{span}; let it end after it starts")
        if self.start < 0 and self.end != 0:
            raise SpecError(f"a span starts at {self.start:g} s; use 0 or more, or Span.last for the end of the clip")

    @classmethod
    def last(cls, seconds: float) -> Span:
        """The newest `seconds` of whatever it is asked of.

        Raises:
            SpecError: they are not more than 0, or not finite.
        """
        if not 0 < seconds <= _LARGEST:
            raise SpecError(f"the last {shown(seconds)} s are no time at all; give more than 0 seconds")
        return cls(-seconds, 0.0)

    @classmethod
    def at(cls, seconds: float) -> Span:
        """The moment so many seconds from the start.

        Raises:
            SpecError: they are less than 0, or not finite.
        """
        return cls(seconds, seconds)

    @classmethod
    def whole(cls) -> Span:
        """All of whatever it is asked of, by the original's rule for whole clips."""
        return cls(0.0, float("inf"))

    @property
    def is_moment(self) -> bool:
        """Whether it has no length of its own."""
        return self.start == self.end

    def within(self, duration: float) -> Span:
        """This span on a clip of `duration` seconds: from its start and cut to it; a moment with those around.

        Of one that starts after the clip, the least that is no moment is left, where nothing is.
        """
        shift = duration if self.start < 0 else 0.0
        before, after = (_BEFORE_MOMENT, _AFTER_MOMENT) if self.is_moment else (0.0, 0.0)
        start = max(0.0, self.start + shift - before)
        end = min(duration, self.end + shift + after)
        return Span(start, end if start <= end else math.nextafter(start, math.inf))


@dataclass(frozen=True, eq=False)
class Embeds:
    """Rows that stand in the prompt where words would: float32 (n_tokens, hidden_size)."""

    data: Float32
    modality: Modality


@dataclass(frozen=True)
class Usage:
    """What one answer was made of, and what it cost.

    frame_times: seconds. audio_spans: (from, to) in seconds. prefilled_tokens: positions decoded for this
    question, prompt_tokens: all positions of the prompt. first_token_ms: from the question to its first token.
    finish: why the answer ended; "stop" a stop string or the end token, "length" max_tokens, "context" n_ctx was
    full, "cancelled" by the caller. turns_left_out: of the conversation's oldest, so that the prompt fits.
    long: how a span of many frames was looked at (`Chat.ask`). frames_seen: how many frames went into the media.
    parts: (from, to, its own answer) of each part that a "map" asked.
    """

    model: str
    answer: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    prefilled_tokens: int
    answer_tokens: int
    encode_ms: float
    prefill_ms: float
    first_token_ms: float
    tokens_per_second: float
    frame_times: tuple[float, ...]
    audio_spans: tuple[tuple[float, float], ...]
    seed: int
    finish: Finish
    turns_left_out: int = 0
    long: Long = "frames"
    frames_seen: int = 0
    parts: tuple[tuple[float, float, str], ...] = ()


@dataclass(frozen=True)
class Delta:
    """A piece of an answer as it is made; the last one of an answer has `usage`."""

    text: str
    usage: Usage | None = None


def is_whole(value: object) -> bool:
    """Whether it is a whole number, Python's or NumPy's."""
    return isinstance(value, (int, np.integer))


def shown(value: float) -> str:
    """A number for a message, also a whole one that is too large for a float."""
    try:
        return f"{value:g}"
    except OverflowError:
        return f"{Decimal(value):.0e}"


def kind_of(value: object) -> str:
    """What an argument is, for a message: dtype and shape of an array, else its type."""
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
