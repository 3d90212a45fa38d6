"""A yes or no question asked of what is seen and heard, again and again: scored, not drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..answer import AnswerStream
from ..encoders import Encoders
from ..errors import SpecError
from ..llm.backbone import Backbone
from ..prompt import Turn, build_prompt
from ..spec import ModelSpec, Sampling
from ..timeline import Timeline
from ..times import check_span
from ..types import Float32, Span, shown
from ..view import Viewer

_DECIDED = 0.5  # of the probability has to lie on yes and no together
_GREEDY = Sampling.greedy(48)


@dataclass(frozen=True)
class Score:
    """How much the answer is yes.

    span: of which it was asked, in seconds of the timeline. yes: 0 to 1, the probability of yes among yes and no; None
    where the answer comes to neither, or there was nothing to see or hear. answer: its words before the yes or no.
    frame_times, audio_spans: what it rests on.
    """

    span: Span
    yes: float | None
    answer: str
    frame_times: tuple[float, ...] = ()
    audio_spans: tuple[tuple[float, float], ...] = ()


class YesNo:
    """How much a model's answer to one question is yes; made by `Engine.yes_no`.

    The prompt is read once. Where yes and no in any spelling, as the next token, have at least half of the probability
    between them, their shares are the score: for a chat model, whose answer begins with yes or no, at once. A model
    that says more before it comes to that (the miniature answers "a red circle? The circle is blue, so no.") is
    followed, always along its likeliest token, until it does, 48 tokens at most. Nothing is drawn: the same window has
    the same score.

    Raises:
        SpecError: the question is empty; no token of the model says yes, or none no.
        BackendError: as `score`.
    """

    def __init__(
        self,
        question: str,
        timeline: Timeline,
        spec: ModelSpec,
        encoders: Encoders,
        backbone: Backbone,
        *,
        audio: bool = True,
    ) -> None:
        if not question.strip():
            raise SpecError("the question is empty; write a yes or no question")
        self._question = question
        self._spec = spec
        self._backbone = backbone
        self._viewer = Viewer(timeline, encoders, spec, audio=audio)
        with backbone.used():
            self._yes, self._no = (self._spelled(word) for word in ("yes", "no"))

    def score(self, span: Span) -> Score:
        """Ask it of a span.

        Raises:
            SpecError: the clip ends before the span begins.
            ContextOverflowError: the question and the media do not fit n_ctx.
            BackendError: a part failed, the engine was closed, or is answering in another thread.
        """
        timeline = self._viewer.timeline
        if not timeline.live:
            check_span(span, timeline.duration)
        with self._backbone.used():
            return self._score(span)

    def _score(self, span: Span) -> Score:
        cut = self._viewer.cut(span)
        view = self._viewer.look(cut, "frames")
        if view.media.kind == "text":
            return Score(cut, None, "")
        self._backbone.prefill(self._backbone.tokenize(build_prompt([Turn(self._question, view.media)], self._spec)))
        stream, text = AnswerStream(self._spec.prompt.stop), ""
        yes: float | None = None
        for token in self._backbone.generate(_GREEDY, 0):
            yes = self._decided(self._backbone.logits())
            if yes is not None:
                break
            text += stream.push(self._backbone.piece(token))
            if stream.stopped:
                break
        return Score(cut, yes, (text + stream.finish()).strip(), view.frame_times, view.audio_spans)

    def _decided(self, logits: Float32) -> float | None:
        scores = np.exp(logits.astype(np.float64) - logits.max())
        yes, no = scores[self._yes].sum(), scores[self._no].sum()
        return float(yes / (yes + no)) if yes + no >= _DECIDED * scores.sum() else None

    def _spelled(self, word: str) -> list[int]:
        pieces = (self._backbone.piece(token) for token in range(self._backbone.n_vocab))
        tokens = [token for token, piece in enumerate(pieces) if piece.strip().lower() == word.encode()]
        if not tokens:
            raise SpecError(f"{self._spec.name} has no token for {word!r}; watch with another model")
        return tokens


class Switch:
    """On or off by a score that wavers: on from `on`, off again only at `off`; it begins as off.

    Raises:
        SpecError: not 0 <= off <= on <= 1.
    """

    def __init__(self, on: float, off: float) -> None:
        if not 0.0 <= off <= on <= 1.0:
            raise SpecError(f"on is {shown(on)} and off {shown(off)}; use 0 to 1, and off no greater than on")
        self._on = on
        self._off = off
        self.state = False

    def update(self, yes: float | None) -> bool:
        """Take a score; returns whether the state changed. None changes nothing."""
        before = self.state
        if yes is not None and yes >= self._on:
            self.state = True
        elif yes is not None and yes <= self._off:
            self.state = False
        return self.state != before
