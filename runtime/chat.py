"""One conversation over one timeline."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .answer import AnswerStream, answer_text
from .backbone import Backbone
from .encoders import Encoders
from .errors import SpecError
from .pixels import timestamps
from .prompt import Media, Turn, build_prompt
from .spec import ModelSpec, Sampling
from .timeline import ClipFeature, FrameFeature, Timeline
from .types import Delta, Modality, Span, Usage

_SEEDS = 2**32 - 1  # llama.cpp takes this value itself for "draw one"


@dataclass(frozen=True)
class _View:
    """What a span shows: the features behind the media of a turn."""

    span: Span | None
    frames: list[FrameFeature]
    clips: list[ClipFeature]
    media: Media


class Chat:
    """Questions and answers in turn; made by `Engine.chat`.

    The first question brings the whole clip unless it names a span. Later ones are about the same media, until
    another span is named.
    """

    def __init__(
        self, timeline: Timeline, spec: ModelSpec, encoders: Encoders, backbone: Backbone, *, audio: bool = True
    ) -> None:
        self.timeline = timeline
        self._spec = spec
        self._encoders = encoders
        self._backbone = backbone
        self._audio = audio and spec.audio is not None
        self._turns: list[Turn] = []
        self._view: _View | None = None
        self._unbilled_ms = timeline.encode_ms

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What was said so far."""
        return tuple(self._turns)

    def ask(
        self,
        question: str,
        span: Span | None = None,
        *,
        sampling: Sampling | None = None,
        seed: int | None = None,
    ) -> Iterator[Delta]:
        """Answer a question, piece by piece; the last piece has the `Usage`.

        Stopping to iterate stops the answer; what was said until then stays in the conversation.

        Args:
            question: what the user asks; never parsed for control tokens.
            span: seconds of the clip it is about; None: those of the turn before, at first the whole clip.
            sampling: the model's defaults if None.
            seed: 0 to 2**32 - 2; drawn if None, and reported.

        Raises:
            SpecError: the question is empty, or the seed out of range.
            ContextOverflowError: the conversation does not fit n_ctx; nothing was decoded.
        """
        if not question.strip():
            raise SpecError("the question is empty; write one")
        if seed is not None and not 0 <= seed < _SEEDS:
            raise SpecError(f"seed is {seed}; use 0 to {_SEEDS - 1}")
        return self._answer(question, span, sampling or self._spec.llm.sampling, self._seed(seed))

    def cancel(self) -> None:
        """Stop the running answer from another thread, also while the prompt is still being read."""
        self._backbone.cancel()

    def _answer(self, question: str, span: Span | None, sampling: Sampling, seed: int) -> Iterator[Delta]:
        asked = time.perf_counter()
        view = self._look(span)
        turn = Turn(question, view.media if view is not self._view else Media())
        encode_ms = self._unbilled_ms + _since(asked)
        reading = time.perf_counter()
        segments = self._backbone.tokenize(build_prompt([*self._turns, turn], self._spec))
        prefilled = self._backbone.prefill(segments)
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
            self._turns.append(Turn(turn.question, turn.media, answer))
        seconds = time.perf_counter() - writing
        yield Delta(
            "",
            Usage(
                model=self._spec.name,
                answer=answer,
                token_ids=tuple(tokens),
                prompt_tokens=sum(_rows(segment) for segment in segments),
                prefilled_tokens=prefilled,
                answer_tokens=len(tokens),
                encode_ms=encode_ms,
                prefill_ms=prefill_ms,
                first_token_ms=first_ms,
                tokens_per_second=(len(tokens) - 1) / seconds if len(tokens) > 1 else 0.0,
                frame_times=tuple(frame.time for frame in view.frames),
                audio_spans=tuple(sorted({(clip.start, clip.end) for clip in view.clips})),
                seed=seed,
                finish=finish,
            ),
        )

    def _look(self, span: Span | None) -> _View:
        if self._view is not None and span in (None, self._view.span):
            return self._view
        video, audio = self._spec.video, self._spec.audio
        frames = self.timeline.choose_frames(video.num_frames, span)
        clips = []
        if audio and self._audio:
            clips = self.timeline.choose_clips(audio.num_clips, audio.clip_seconds, span)
        modality: Modality = "image" if self.timeline.kind == "image" else "video"
        media = Media(
            video=self._encoders.video_embeds(np.stack([f.features for f in frames]), modality) if frames else None,
            audio=self._encoders.audio_embeds(np.stack([c.features for c in clips])) if clips else None,
            num_frames=len(frames),
            seconds=timestamps([frame.index for frame in frames], self.timeline.frame_rate or 1.0),
        )
        return _View(span, frames, clips, media)

    @staticmethod
    def _seed(seed: int | None) -> int:
        return secrets.randbelow(_SEEDS) if seed is None else seed


def _rows(segment: object) -> int:
    data = getattr(segment, "data", segment)
    return len(data)  # type: ignore[arg-type]


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000.0
