"""One conversation over one timeline."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import get_args

from .answer import AnswerStream, answer_text
from .cache.prefixes import PrefixStore
from .encoders import Encoders
from .errors import ContextOverflowError, SpecError
from .history import History, Segments, rows_of
from .llm.backbone import Backbone
from .prompt import Media, Turn, build_prompt
from .segments import Segment, segments_that_fit
from .spec import ModelSpec, Sampling
from .timeline import Timeline
from .times import check_span, ms_since
from .types import Delta, Embeds, Finish, Long, Span, Usage, is_whole
from .view import View, Viewer

_SEEDS = 2**32 - 1  # llama.cpp takes this value itself for "draw one"
_MOST_PARTS = 12  # of a "map": each costs a prompt of its own
_PART_ANSWER = Sampling.greedy(48)
_SAMPLES = ("What", "Is")  # questions whose common tokens are what any question begins with


@dataclass
class _Written:
    """An answer as far as it was written. began, first: when it was asked for, and when its first token came."""

    began: float
    first: float = 0.0
    tokens: list[int] = field(default_factory=list)
    raw: bytes = b""
    finish: Finish = "cancelled"

    def add(self, token: int, piece: bytes) -> None:
        if not self.tokens:
            self.first = time.perf_counter()
        self.tokens.append(token)
        self.raw += piece

    @property
    def first_token_ms(self) -> float:
        return (self.first - self.began) * 1000.0 if self.tokens else 0.0

    @property
    def tokens_per_second(self) -> float:
        return (len(self.tokens) - 1) / (time.perf_counter() - self.first) if len(self.tokens) > 1 else 0.0


@dataclass
class _Running:
    """An answer that is not over. cancelled: ends it. turn, media: what it is kept with."""

    written: _Written
    cancelled: threading.Event
    turn: Turn
    media: Media


class Chat:
    """Questions and answers in turn; made by `Engine.chat`.

    The first question brings the whole clip unless it names a span. Later ones are about the same media, until
    another span is named. What was read stays in the KV cache. When the context is full, the oldest questions and
    answers are left out, or the model's own summary of them takes their place; the media never are.

    Use it from one thread at a time, as its engine; `cancel` alone may come from any.
    """

    _history_class: type[History] = History

    def __init__(
        self,
        timeline: Timeline,
        spec: ModelSpec,
        encoders: Encoders,
        backbone: Backbone,
        prefixes: PrefixStore,
        *,
        audio: bool = True,
        summarise: bool = False,
    ) -> None:
        self.timeline = timeline
        self._spec = spec
        self._backbone = backbone
        self._prefixes = prefixes
        self._viewer = Viewer(timeline, encoders, spec, audio=audio)
        self._history = self._history_class(spec, backbone, summarise=summarise)
        self._view: View | None = None
        self._running: _Running | None = None
        self._segments: Segments = []
        self._unbilled_ms = timeline.encode_ms
        self._cancelled = threading.Event()  # the answer that is being made
        self._asked = self._cancelled  # the one that was asked for last, and may not have begun

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What was said so far, also what no longer fits the context."""
        return self._history.turns

    @property
    def last_prompt(self) -> list[int | str]:
        """The last prompt, position by position: token ids, and a digest of the row for media.

        Raises:
            BackendError: the engine was closed.
        """
        return [
            key if isinstance(key, int) else f"{key[0].hex()}:{key[1]}" for key in self._backbone.keys(self._segments)
        ]

    def ask(
        self,
        question: str,
        span: Span | None = None,
        *,
        long: Long | None = None,
        sampling: Sampling | None = None,
        seed: int | None = None,
    ) -> Generator[Delta, None, None]:
        """Answer a question, piece by piece; the last piece has the `Usage`.

        `close` of what this returns stops the answer; what was said until then stays in the conversation. The next
        question of any conversation of the engine stops it too: its last piece says "cancelled" then.

        Args:
            question: what the user asks; never parsed for control tokens.
            span: seconds of the clip it is about; None: those of the turn before, at first `Span.whole()`. Only
                sound that was encoded there is heard: see `Engine.index`.
            long: how a span is looked at that has more frames than the original takes. "frames": the original's rule.
                "memory": all of them, merged to as many tokens. "segments": pieces of the original's kind, each with
                its times, as many as fit. "map": each piece is asked by itself, and the answer made from their answers.
                None: "frames" where they cover the span, else what the model's entry says.
            sampling: the model's defaults if None.
            seed: 0 to 2**32 - 2; drawn if None, and reported.

        Raises:
            SpecError: at the call: the question is empty, the seed out of range, the clip ends before the span begins,
                or `long` is none of those; with the first piece: `long` is nothing for this model.
            ContextOverflowError: with the first piece: the question and the media do not fit n_ctx; nothing was
                decoded.
            MediaError: with the first piece, live: nothing was seen or heard in the span.
            BackendError: with any piece: a part failed, the engine was closed, or is answering in another thread.
        """
        _check_long(long)
        if not question.strip():
            raise SpecError("the question is empty; write one")
        if seed is not None and not (is_whole(seed) and 0 <= seed < _SEEDS):
            raise SpecError(f"seed is {seed}; use a whole number from 0 to {_SEEDS - 1}")
        if not self.timeline.live:
            check_span(span, self.timeline.duration)
        drawn = secrets.randbelow(_SEEDS) if seed is None else seed
        self._asked = threading.Event()
        sampling = sampling or self._spec.llm.sampling
        return self._in_steps(self._answer(question, span, long, sampling, drawn, self._asked))

    def prepare(self, span: Span | None = None, *, long: Long | None = None, keep: bool = False) -> None:
        """Begin to read, in the background, all that the next question's prompt starts with; returns at once.

        Call it while the user types or is silent: only the words of the question are left to read then. A question
        about another span costs nothing more than without this. What does not fit n_ctx is not read.

        Args:
            span, long: of the next question, probably; as in `ask`.
            keep: wait until it was read and keep it on disk, for the next process that asks about the same media.

        Raises:
            SpecError: `long` is none of those in `ask`, or nothing for this model.
            BackendError: a part failed, perhaps while it read what was prepared before; or as `ask`.
            FileError: it cannot be kept.
        """
        _check_long(long)
        with self._backbone.used():
            self._prepare(span, long, keep)

    def _prepare(self, span: Span | None, long: Long | None, keep: bool) -> None:
        self._leave()
        try:
            opening = self._opening(self._look(span, long))
            is_kept = self._restore(opening)
            self._backbone.prefill_ahead(opening)
        except ContextOverflowError:
            return  # the question will say so, or leave old turns out
        if keep and not is_kept:
            self._backbone.wait_ahead()
            self._prefixes.keep(self._backbone.save())

    def clear(self) -> None:
        """Forget what was said; the timeline stays."""
        self._leave()
        self._history.clear()
        self._view = None

    def cancel(self) -> None:
        """Stop the running answer from another thread, also one whose prompt is being read, or was not begun.

        Its last piece says "cancelled". The next question is answered as ever, and so are those of other conversations.
        """
        for answer in (self._cancelled, self._asked):
            answer.set()
            self._backbone.cancel(answer)

    def _in_steps(self, answer: Generator[Delta, None, None]) -> Generator[Delta, None, None]:
        """Each piece of it for one thread alone."""
        with closing(answer):
            while True:
                with self._backbone.used():
                    delta = next(answer, None)
                if delta is None:
                    return
                yield delta

    def _leave(self) -> None:
        """End an answer that was left half-way: what it said stands before what comes now."""
        if self._running is not None:
            self._running.cancelled.set()
            self._backbone.cancel(self._running.cancelled)
            self._keep(self._running)

    def _keep(self, answer: _Running) -> str:
        """Keep what an answer said in the conversation, once; returns it."""
        prompt = self._spec.prompt
        text = answer_text(answer.written.raw.decode("utf-8", "replace"), prompt.stop, prompt.keep_after)
        if answer is self._running:
            self._running = None
            self._history.add(replace(answer.turn, answer=text), answer.media)
        return text

    def _answer(
        self,
        question: str,
        span: Span | None,
        long: Long | None,
        sampling: Sampling,
        seed: int,
        cancelled: threading.Event,
    ) -> Generator[Delta, None, None]:
        asked = time.perf_counter()
        self._leave()
        self._cancelled = cancelled
        view = self._look(span, long)
        turn = Turn(question, view.media if view is not self._view else Media())
        encode_ms = self._unbilled_ms + ms_since(asked)
        parts = self._asked_of_parts(question, view) if view.long == "map" else ()
        words = "\n".join([*(f"{part.intro}{answer}" for part, answer in parts), question])
        reading = time.perf_counter()
        segments = self._history.fitting(
            replace(turn, question=words), view.media, sampling.max_tokens, self._short_answer
        )
        self._restore(self._opening(view))
        self._segments = segments
        prefilled = self._backbone.prefill(segments, cancelled)
        prefill_ms = ms_since(reading)
        self._view, self._unbilled_ms = view, 0.0

        written = _Written(asked)
        running = self._running = _Running(written, cancelled, turn, view.media)
        try:
            yield from self._write(written, sampling, seed)
        finally:
            answer = self._keep(running)
        yield Delta(
            "",
            Usage(
                model=self._spec.name,
                answer=answer,
                token_ids=tuple(written.tokens),
                prompt_tokens=rows_of(segments),
                prefilled_tokens=prefilled,
                answer_tokens=len(written.tokens),
                encode_ms=encode_ms,
                prefill_ms=prefill_ms,
                first_token_ms=written.first_token_ms,
                tokens_per_second=written.tokens_per_second,
                frame_times=view.frame_times,
                audio_spans=view.audio_spans,
                seed=seed,
                finish=written.finish,
                turns_left_out=self._history.left_out,
                long=view.long,
                frames_seen=view.frames_seen,
                parts=tuple((part.span.start, part.span.end, answer) for part, answer in parts),
            ),
        )

    def _write(self, written: _Written, sampling: Sampling, seed: int) -> Generator[Delta, None, None]:
        """The words of an answer to the prompt that was read."""
        stream, answers = AnswerStream(self._spec.prompt.stop), self._backbone.generate(sampling, seed)
        try:
            for token in answers:
                piece = self._backbone.piece(token)
                written.add(token, piece)
                if text := stream.push(piece):
                    yield Delta(text)
                if stream.stopped:
                    break
            written.finish = "stop" if stream.stopped else self._backbone.finish
            if text := stream.finish():
                yield Delta(text)
        finally:
            answers.close()

    def _look(self, span: Span | None, long: Long | None) -> View:
        if self._view is not None and span is None and long in (None, self._view.long):
            return self._view
        if span is None and self._view is not None:
            span = self._view.span
        whole = None if span == Span.whole() else span
        mode = self._viewer.mode(whole, long)
        if self._view is not None and (whole, mode) == (self._view.span, self._view.long):
            return self._view
        if mode == "segments":
            return self._viewer.look_at_parts(whole, self._parts(whole))
        return self._viewer.look(whole, mode)

    def _asked_of_parts(self, question: str, view: View) -> tuple[tuple[Segment, str], ...]:
        """Each part of a span by itself, and its short answer to the question; fewer where it was cancelled."""
        answers = []
        for part in self._viewer.parts(view.span, _MOST_PARTS):
            turn = Turn(question, self._viewer.look(part.span, "frames").media)
            answer = self._short_answer(self._backbone.tokenize(build_prompt([turn], self._spec)), _PART_ANSWER)
            if self._cancelled.is_set():
                break
            answers.append((part, answer))
        return tuple(answers)

    def _parts(self, span: Span | None) -> tuple[Segment, ...]:
        """As many pieces of a span as fit half of the context; the other half is for the conversation."""
        probe = self._viewer.look_at_parts(span, self._viewer.parts(span, 1))
        words = rows_of(self._backbone.tokenize(build_prompt([Turn("", probe.media)], self._spec)))
        return self._viewer.parts(span, segments_that_fit(self._backbone.n_ctx // 2, words))

    def _short_answer(self, segments: Segments, sampling: Sampling) -> str:
        """An answer that nobody waits for word by word; "" if it was cancelled."""
        self._backbone.prefill(segments, self._cancelled)
        written = _Written(time.perf_counter())
        text = "".join(delta.text for delta in self._write(written, sampling, 0))
        return "" if written.finish == "cancelled" else text.strip()

    def _opening(self, view: View) -> Segments:
        """What the next prompt starts with, whatever is asked."""
        media = view.media if view is not self._view else Media()
        one, other = (self._history.prompt(Turn(sample, media), view.media) for sample in _SAMPLES)
        opening: Segments = []
        for mine, theirs in zip(one, other, strict=False):
            if isinstance(mine, Embeds) or isinstance(theirs, Embeds):
                opening.append(mine)
                continue
            same = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), None)
            opening.append(mine if same is None else mine[:same])
            if same is not None:
                break
        return [segment for segment in opening if isinstance(segment, Embeds) or segment]

    def _restore(self, opening: Segments) -> bool:
        """Take the opening from the disk if it was kept there and is not at hand; returns whether it was taken."""
        if self._backbone.cached(opening) >= rows_of(opening):
            return False
        found = self._prefixes.find(self._backbone.keys(opening))
        return found is not None and self._backbone.restore(found)


def _check_long(long: Long | None) -> None:
    ways = get_args(Long)
    if long is not None and long not in ways:
        raise SpecError(f"long is {long!r}; use one of {', '.join(ways)}")
