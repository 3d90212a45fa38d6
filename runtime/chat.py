"""One conversation over one timeline."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from .answer import AnswerStream, answer_text
from .encoders import Encoders
from .errors import ContextOverflowError, SpecError
from .llm.backbone import Backbone
from .llm.prefixes import PrefixStore
from .prompt import Media, Turn, build_prompt
from .segments import Segment, plan_segments, segments_that_fit
from .spec import ModelSpec, Sampling
from .timeline import Timeline
from .times import check_span
from .types import Delta, Embeds, Span, Usage
from .view import Long, View, Viewer

_SEEDS = 2**32 - 1  # llama.cpp takes this value itself for "draw one"
_TRIMMED = 0.75  # how full a context that overflowed is made again, so that not every turn has to be read anew
_MOST_PARTS = 12  # of a "map": each costs a prompt of its own
_PART_ANSWER = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_tokens=48)
_SUMMARY_REQUEST = "Summarise our conversation so far in two sentences."
_SUMMARY = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_tokens=96)
_SAMPLES = ("What", "Is")  # questions whose common tokens are what any question begins with
Segments = list[list[int] | Embeds]


@dataclass(frozen=True)
class _Said:
    """A turn with what it looked at, whether it brought that itself or not."""

    turn: Turn
    view: View


class Chat:
    """Questions and answers in turn; made by `Engine.chat`.

    The first question brings the whole clip unless it names a span. Later ones are about the same media, until
    another span is named. What was read stays in the KV cache. When the context is full, the oldest questions and
    answers are left out, or the model's own summary of them takes their place; the media never are.
    """

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
        self._said: list[_Said] = []
        self._first = 0  # of the turns that still stand in the prompt
        self._summarises = summarise
        self._summary: Turn | None = None  # of those that do not
        self._view: View | None = None
        self._segments: Segments = []
        self._unbilled_ms = timeline.encode_ms
        self._cancelled = threading.Event()  # the answer that is being made
        self._asked = self._cancelled  # the one that was asked for last, and may not have begun

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What was said so far, also what no longer fits the context."""
        return tuple(said.turn for said in self._said)

    @property
    def last_prompt(self) -> list[int | str]:
        """The last prompt, position by position: token ids, and a digest of the row for media."""
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

        `close` of what this returns stops the answer; what was said until then stays in the conversation.

        Args:
            question: what the user asks; never parsed for control tokens.
            span: seconds of the clip it is about; None: those of the turn before, at first `Span.whole()`.
            long: how a span is looked at that has more frames than the original takes. "frames": the original's rule.
                "memory": all of them, merged to as many tokens. "segments": pieces of the original's kind, each with
                its times, as many as fit. "map": each piece is asked by itself, and the answer made from their answers.
                None: "frames" where they cover the span, else what the model's entry says.
            sampling: the model's defaults if None.
            seed: 0 to 2**32 - 2; drawn if None, and reported.

        Raises:
            SpecError: the question is empty, the seed out of range, the clip ends before the span begins, or `long` is
                none of those or nothing for this model.
            ContextOverflowError: the question and the media do not fit n_ctx; nothing was decoded.
            BackendError: a part failed.
        """
        _check_long(long)
        if not question.strip():
            raise SpecError("the question is empty; write one")
        if seed is not None and not 0 <= seed < _SEEDS:
            raise SpecError(f"seed is {seed}; use 0 to {_SEEDS - 1}")
        if not self.timeline.live:
            check_span(span, self.timeline.duration)
        drawn = secrets.randbelow(_SEEDS) if seed is None else seed
        self._asked = threading.Event()
        return self._answer(question, span, long, sampling or self._spec.llm.sampling, drawn, self._asked)

    def prepare(self, span: Span | None = None, *, long: Long | None = None, keep: bool = False) -> None:
        """Begin to read, in the background, all that the next question's prompt starts with; returns at once.

        Call it while the user types or is silent: only the words of the question are left to read then. A question
        about another span costs nothing more than without this. What does not fit n_ctx is not read.

        Args:
            span, long: of the next question, probably; as in `ask`.
            keep: wait until it was read and keep it on disk, for the next process that asks about the same media.

        Raises:
            SpecError: `long` is none of those in `ask`, or nothing for this model.
            BackendError: a part failed, perhaps while it read what was prepared before.
            FileError: it cannot be kept.
        """
        _check_long(long)
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
        self._said, self._first, self._summary, self._view = [], 0, None, None

    def cancel(self) -> None:
        """Stop the running answer from another thread, also one whose prompt is being read, or was not begun.

        Its last piece says "cancelled". The next question is answered as ever, and so are those of other conversations.
        """
        for answer in (self._cancelled, self._asked):
            answer.set()
            self._backbone.cancel(answer)

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
        self._cancelled = cancelled
        view = self._look(span, long)
        turn = Turn(question, view.media if view is not self._view else Media())
        encode_ms = self._unbilled_ms + _since(asked)
        parts = self._asked_of_parts(question, view) if view.long == "map" else ()
        words = "\n".join([*(f"{part.intro}{answer}" for part, answer in parts), question])
        reading = time.perf_counter()
        segments = self._fitting(replace(turn, question=words), view, sampling.max_tokens)
        self._restore(self._opening(view))
        self._segments = segments
        prefilled = self._backbone.prefill(segments, cancelled)
        prefill_ms = _since(reading)
        self._view, self._unbilled_ms = view, 0.0

        prompt = self._spec.prompt
        stream, raw, tokens = AnswerStream(prompt.stop), b"", list[int]()
        first_ms, writing = 0.0, time.perf_counter()
        finish: Literal["stop", "length", "context", "cancelled"] = "cancelled"
        answers = self._backbone.generate(sampling, seed)
        try:
            for token in answers:
                if not tokens:
                    first_ms, writing = _since(asked), time.perf_counter()
                tokens.append(token)
                piece = self._backbone.piece(token)
                raw += piece
                if text := stream.push(piece):
                    yield Delta(text)
                if stream.stopped:
                    break
            finish = "stop" if stream.stopped else self._backbone.finish
            if text := stream.finish():
                yield Delta(text)
        finally:
            answers.close()
            answer = answer_text(raw.decode("utf-8", "replace"), prompt.stop, prompt.keep_after)
            self._said.append(_Said(replace(turn, answer=answer), view))
        seconds = time.perf_counter() - writing
        yield Delta(
            "",
            Usage(
                model=self._spec.name,
                answer=answer,
                token_ids=tuple(tokens),
                prompt_tokens=_rows(segments),
                prefilled_tokens=prefilled,
                answer_tokens=len(tokens),
                encode_ms=encode_ms,
                prefill_ms=prefill_ms,
                first_token_ms=first_ms,
                tokens_per_second=(len(tokens) - 1) / seconds if len(tokens) > 1 else 0.0,
                frame_times=view.frame_times,
                audio_spans=view.audio_spans,
                seed=seed,
                finish=finish,
                turns_left_out=self._first,
                long=view.long,
                frames_seen=view.frames_seen,
                parts=tuple((part.span.start, part.span.end, answer) for part, answer in parts),
            ),
        )

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
        cut, frames = self._viewer.cut(view.span), len(self.timeline.frames_in(view.span))
        parts = plan_segments(cut, frames, self._spec.video.num_frames, _MOST_PARTS)
        answers = []
        for part in parts:
            turn = Turn(question, self._viewer.look(part.span, "frames").media)
            answer = self._short_answer(self._backbone.tokenize(build_prompt([turn], self._spec)), _PART_ANSWER)
            if self._cancelled.is_set():
                break
            answers.append((part, answer))
        return tuple(answers)

    def _parts(self, span: Span | None) -> tuple[Segment, ...]:
        """As many pieces of a span as fit half of the context; the other half is for the conversation."""
        video = self._spec.video
        cut, frames = self._viewer.cut(span), len(self.timeline.frames_in(span))
        (one,) = plan_segments(cut, frames, video.num_frames, 1)
        probe = self._viewer.look_at_parts(span, (one,))
        words = _rows(self._backbone.tokenize(build_prompt([Turn("", probe.media)], self._spec)))
        return plan_segments(cut, frames, video.num_frames, segments_that_fit(self._backbone.n_ctx // 2, words))

    def _fitting(self, turn: Turn, view: View, max_tokens: int) -> Segments:
        """The prompt; old turns are left out where it and an answer would not fit, and then some more."""
        room = self._backbone.n_ctx - min(max_tokens, self._backbone.n_ctx // 4)
        segments = self._prompt(turn, view)
        if _rows(segments) > room:
            if self._summarises and self._first < len(self._said):
                self._summarise(view)
                segments = self._prompt(turn, view)
            while _rows(segments) > _TRIMMED * room and self._first < len(self._said):
                self._first += 1
                segments = self._prompt(turn, view)
        return segments

    def _summarise(self, view: View) -> None:
        """Let the model say in two sentences what was said; that stands for all turns so far from now on."""
        first = self._first
        request = Turn(_SUMMARY_REQUEST)
        segments = self._prompt(request, view)
        room = self._backbone.n_ctx - _SUMMARY.max_tokens
        while _rows(segments) > room and self._first < len(self._said):
            self._first += 1
            segments = self._prompt(request, view)
        answer = self._short_answer(segments, _SUMMARY) if _rows(segments) <= room else ""
        if answer:
            self._summary, self._first = replace(request, answer=answer), len(self._said)
        else:
            self._first = first  # cancelled, or no room for it: turns are left out instead

    def _prompt(self, turn: Turn, view: View) -> Segments:
        said = [*self._said[self._first :], _Said(turn, view)]
        turns = [each.turn for each in said]
        if self._summary is not None:
            turns.insert(0, self._summary)
        turns[0] = replace(turns[0], media=said[0].view.media)  # the turn that brought them may be left out
        return self._backbone.tokenize(build_prompt(turns, self._spec))

    def _short_answer(self, segments: Segments, sampling: Sampling) -> str:
        """An answer that nobody waits for word by word; "" if it was cancelled."""
        self._backbone.prefill(segments, self._cancelled)
        stream, text = AnswerStream(self._spec.prompt.stop), ""
        for token in self._backbone.generate(sampling, 0):
            text += stream.push(self._backbone.piece(token))
            if stream.stopped:
                break
        if self._backbone.finish == "cancelled" and not stream.stopped:
            return ""
        return (text + stream.finish()).strip()

    def _opening(self, view: View) -> Segments:
        """What the next prompt starts with, whatever is asked."""
        media = view.media if view is not self._view else Media()
        one, other = (self._prompt(Turn(sample, media), view) for sample in _SAMPLES)
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
        if self._backbone.cached(opening) >= _rows(opening):
            return False
        found = self._prefixes.find(self._backbone.keys(opening))
        return found is not None and self._backbone.restore(found)


def _check_long(long: Long | None) -> None:
    ways = get_args(Long)
    if long is not None and long not in ways:
        raise SpecError(f"long is {long!r}; use one of {', '.join(ways)}")


def _rows(segments: Segments) -> int:
    return sum(len(segment.data) if isinstance(segment, Embeds) else len(segment) for segment in segments)


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000.0
