"""Turns -> the pieces of a prompt, in reading order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from string import Formatter
from typing import Literal

from .spec import MediaTexts, ModelSpec
from .types import Embeds


@dataclass(frozen=True)
class ControlToken:
    """A token that text can never spell: the start or the end of a sequence."""

    text: Literal["<s>", "</s>"]


Piece = str | ControlToken | Embeds
_CONTROL = {text: ControlToken(text) for text in ("<s>", "</s>")}


@dataclass(frozen=True)
class Part:
    """One piece of a long clip, and the words that introduce it."""

    intro: str
    media: Media


@dataclass(frozen=True)
class Media:
    """What a turn brings to the prompt; seconds: the times of its frames as upstream writes them.

    parts: pieces of a long clip in order of time, instead of one video and one audio.
    """

    video: Embeds | None = None
    audio: Embeds | None = None
    num_frames: int = 0
    seconds: str = ""
    parts: tuple[Part, ...] = ()

    @property
    def kind(self) -> Literal["video", "audio_video", "image", "audio", "text"]:
        """Which message of the spec stands around it."""
        if self.parts:
            return self.parts[0].media.kind
        if self.video is None:
            return "text" if self.audio is None else "audio"
        if self.audio is not None:
            return "audio_video"
        return "image" if self.video.modality == "image" else "video"


@dataclass(frozen=True)
class Turn:
    """One question with the media it brings, and its answer once there is one."""

    question: str
    media: Media = Media()
    answer: str | None = None


def build_prompt(turns: Sequence[Turn], spec: ModelSpec) -> list[Piece]:
    """The whole conversation as upstream writes it.

    Text between two media is one string, so that each is tokenised by itself as upstream does. `<s>` and `</s>`
    become control tokens where the templates have them; in a question or an answer they stay text.

    Args:
        turns: oldest first; only the last one has no answer.

    Source: Video-LLaMA 64888c0, video_llama/conversation/conversation_video.py, Conversation.get_prompt.
    """
    pieces: list[Piece] = []
    for number, turn in enumerate(turns):
        message = _message(turn, spec)
        template = spec.prompt.next if number else spec.prompt.first
        system = _text(spec.messages.system, turns[0].media)
        pieces += _fill(template, {"system": [system], "message": message})
        if turn.answer is not None:
            pieces += _fill(spec.prompt.answer, {"answer": [turn.answer]})
    return _joined(pieces)


def _message(turn: Turn, spec: ModelSpec) -> list[Piece]:
    """A question with its media around it as the model's message has them; parts each have their own, introduced."""
    pieces: list[Piece] = []
    question: dict[str, Sequence[Piece]] = {"question": [turn.question]}
    for part in turn.media.parts:
        media_words, _, _ = _text(spec.messages.message, part.media).partition("{question}")
        pieces += [part.intro, *_fill(media_words, _media_values(part.media))]
    template = _text(spec.messages.message, turn.media)
    if turn.media.parts:
        return pieces + _fill("{question}" + template.partition("{question}")[2], question)
    return _fill(template, {**_media_values(turn.media), **question})


def _text(texts: MediaTexts, media: Media) -> str:
    text: str = getattr(texts, media.kind)
    return text


def _media_values(media: Media) -> dict[str, Sequence[Piece]]:
    values: dict[str, Sequence[Piece]] = {"num_frames": [str(media.num_frames)], "seconds": [media.seconds]}
    if media.video is not None:
        values["video"] = [media.video]
    if media.audio is not None:
        values["audio"] = [media.audio]
    return values


def _fill(template: str, values: Mapping[str, Sequence[Piece]]) -> list[Piece]:
    pieces: list[Piece] = []
    for literal, field, _, _ in Formatter().parse(template):
        pieces += _literal(literal)
        if field is not None:
            pieces += values[field]
    return pieces


def _literal(text: str) -> list[Piece]:
    for mark, token in _CONTROL.items():
        before, found, after = text.partition(mark)
        if found:
            return [*_literal(before), token, *_literal(after)]
    return [text]


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    joined: list[Piece] = []
    for is_text, run in groupby(pieces, key=lambda piece: isinstance(piece, str)):
        if is_text:
            text = "".join(str(piece) for piece in run)
            joined += [text] if text else []
        else:
            joined += run
    return joined
