"""What was said in one conversation, and as much of it as fits the prompt of the next question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .llm.backbone import Backbone
from .prompt import Media, Turn, build_prompt
from .spec import ModelSpec, Sampling
from .types import Embeds

Segments = list[list[int] | Embeds]
_TRIMMED = 0.75  # how full an overflowed context is filled again: with room left, not every turn has to be read anew
_SUMMARY_REQUEST = "Summarise our conversation so far in two sentences."
_SUMMARY = Sampling.greedy(96)


@dataclass(frozen=True)
class _Said:
    """A turn with the media it was about, whether it brought them itself or not."""

    turn: Turn
    media: Media


class History:
    """The turns of one conversation, all of them, and those that still stand in the prompt.

    Args:
        summarise: whether a summary takes the place of what does not fit.
    """

    def __init__(self, spec: ModelSpec, backbone: Backbone, *, summarise: bool) -> None:
        self._spec = spec
        self._backbone = backbone
        self._summarises = summarise
        self._said: list[_Said] = []
        self._summary: Turn | None = None  # of the turns that do not stand in the prompt
        self.left_out = 0

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What was said so far, also what no longer fits."""
        return tuple(said.turn for said in self._said)

    def add(self, turn: Turn, media: Media) -> None:
        """Keep a turn that was answered, and the media it was about."""
        self._said.append(_Said(turn, media))

    def clear(self) -> None:
        """Forget all of them."""
        self._said, self._summary, self.left_out = [], None, 0

    def prompt(self, turn: Turn, media: Media) -> Segments:
        """What stands in the prompt, and one turn more about those media."""
        said = [*self._said[self.left_out :], _Said(turn, media)]
        turns = [each.turn for each in said]
        if self._summary is not None:
            turns.insert(0, self._summary)
        turns[0] = replace(turns[0], media=said[0].media)  # the turn that brought them may be left out
        return self._backbone.tokenize(build_prompt(turns, self._spec))

    def fitting(
        self, turn: Turn, media: Media, max_tokens: int, short_answer: Callable[[Segments, Sampling], str]
    ) -> Segments:
        """The prompt; old turns are left out where it and an answer would not fit, and then some more.

        short_answer: what makes a summary; "" where that was cancelled.
        """
        room = self._backbone.n_ctx - min(max_tokens, self._backbone.n_ctx // 4)
        segments = self.prompt(turn, media)
        if rows_of(segments) > room:
            if self._summarises and self.left_out < len(self._said):
                self._summarise(media, short_answer)
                segments = self.prompt(turn, media)
            while rows_of(segments) > _TRIMMED * room and self.left_out < len(self._said):
                self.left_out += 1
                segments = self.prompt(turn, media)
        return segments

    def _summarise(self, media: Media, short_answer: Callable[[Segments, Sampling], str]) -> None:
        """Let the model say in two sentences what was said; that stands for all turns so far from now on."""
        before = self.left_out
        request = Turn(_SUMMARY_REQUEST)
        segments = self.prompt(request, media)
        room = self._backbone.n_ctx - _SUMMARY.max_tokens
        while rows_of(segments) > room and self.left_out < len(self._said):
            self.left_out += 1
            segments = self.prompt(request, media)
        answer = short_answer(segments, _SUMMARY) if rows_of(segments) <= room else ""
        if answer:
            self._summary, self.left_out = replace(request, answer=answer), len(self._said)
        else:
            self.left_out = before  # cancelled, or no room for it: turns are left out instead


def rows_of(segments: Segments) -> int:
    """Positions of a prompt."""
    return sum(len(segment.data) if isinstance(segment, Embeds) else len(segment) for segment in segments)
