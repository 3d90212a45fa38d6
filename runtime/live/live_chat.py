"""A conversation about what was just seen and heard: each question has a window of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from ..chat import Chat
from ..errors import MediaError
from ..history import History, Segments
from ..prompt import Media, Turn, build_prompt
from ..types import Long, Span
from ..view import View

_TURNS = 1  # that are remembered, see `LiveChat`
_FRESH_SECONDS = 1.5
_THINNED = 50  # times as long ago as that is, something is kept of every stretch of time


@dataclass(frozen=True)
class _Looked:
    """What was looked at: the span as it was asked for, and when."""

    span: Span
    long: Long | None
    view: View
    moment: float


class _LiveHistory(History):
    """Of what was said the turn before, as words; the media of the question's own window stand before it."""

    def add(self, turn: Turn, media: Media) -> None:  # no window is looked at twice
        super().add(replace(turn, media=Media()), Media())

    def prompt(self, turn: Turn, media: Media) -> Segments:
        before = self.turns[max(self.left_out, len(self.turns) - _TURNS) :]
        first, *others = [*before, turn]
        turns = [replace(first, media=media), *(replace(each, media=Media()) for each in others)]
        return self._backbone.tokenize(build_prompt(turns, self._spec))


class LiveChat(Chat):
    """Questions about a live timeline and their answers; made by `Engine.chat`.

    A question without a span is about `window`; a span that counts from the end counts from the moment of the question.
    A window that `prepare` read is taken for the question while it is no older than `fresh_seconds`. Of what is long
    ago little is kept: where there is nothing of a span, what is near is taken (`around`).

    The prompt begins with the media of the question's own window, and of what was said it holds the turn before, as
    words. Of the miniature's answers about 24 clips in turn, 91 % are right so, as many as without any memory of what
    was said; with three turns 88 %, with eight 60 %, and with the media of all earlier windows 50 %: like the published
    models it was trained on conversations about one clip (96 questions, `tests/bench/bench_live_choices.py`).

    Attributes:
        window: what a question without a span is about.
        fresh_seconds: how old a window may be that was read ahead.
    """

    window = Span.last(10.0)
    fresh_seconds = _FRESH_SECONDS
    _history_class = _LiveHistory
    _looked: _Looked | None = None
    _forgets = 0  # of the timeline, when it was last looked at

    @property
    def reads_ahead(self) -> bool:
        """Whether what `prepare` began is still being read; may be asked from any thread."""
        return self._backbone.reads_ahead

    def prepare(self, span: Span | None = None, *, long: Long | None = None, keep: bool = False) -> None:
        """As `Chat.prepare`, of the newest window; does nothing where nothing was seen or heard."""
        self._looked = None
        try:
            super().prepare(span, long=long, keep=keep)
        except MediaError:
            return  # the question will say so

    def clear(self) -> None:
        """Forget what was said; the timeline stays."""
        super().clear()
        self._looked = None

    def _look(self, span: Span | None, long: Long | None) -> View:
        if self._forgets != self.timeline.forgets:
            self._forgets, self._looked, self._view = self.timeline.forgets, None, None
        span, looked = span or self.window, self._looked
        if (
            looked is not None
            and (looked.span, looked.long) == (span, long)
            and time.monotonic() - looked.moment <= self.fresh_seconds
        ):
            return looked.view
        moment, now = time.monotonic(), span.within(self.timeline.duration)
        view = super()._look(now, long)
        if _is_blank(view):
            view = super()._look(around(now, self.timeline.duration), long)
        if _is_blank(view):
            raise MediaError("nothing was seen or heard in that time; ask about another, or wait a moment")
        self._looked = _Looked(span, long, view, moment)
        return view


def around(span: Span, now: float) -> Span:
    """A span and, on each side, a fiftieth of the time since: of an hour ago 72 s, of ten hours ago 12 minutes."""
    wider = max(now - span.end, 0.0) / _THINNED
    return Span(max(span.start - wider, 0.0), span.end + wider)


def _is_blank(view: View) -> bool:
    return not view.frame_times and not view.audio_spans
