"""Training rows: one prompt with media, and behind it several conversations that do not see each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from vllama.runtime.registry import find_spec

from .facts import FOREIGN, audio_facts, image_facts, video_facts
from .kinds import IMAGE_MAKERS, MAKERS, questions
from .lines import audio_tokens, foreign_tokens, picture_line, tokens_of, video_line
from .long import long_questions, part_of, sample_parts
from .questions import Question, Source, with_sources
from .sampler import sample_clip
from .tokenizer import BOS, EOS
from .wording import MESSAGES, turn
from .world import Clip

MediaKind = Literal["video", "audio_video", "image", "audio", "text"]
VIDEO_PLACE, AUDIO_PLACE = -1, -2  # ids where embeds go
_SPEC = find_spec("miniature")
assert _SPEC.audio is not None
VIDEO_EMBEDS, AUDIO_EMBEDS = _SPEC.video.video_qformer.query_tokens, _SPEC.audio.audio_qformer.query_tokens
_MEDIA = re.compile(r"\{(video|audio)\}")
_BETWEEN = MESSAGES["text"].partition("{")[0]  # stands behind the media of a clip, so behind each part of a long one
_LONG_ROOM, _MOST_LONG = 160, 12  # tokens of questions and answers behind a long clip; how many of them at the most
_AS_MEDIA = 0.9  # share of rows whose facts stand as the branches write them, the others as one reads them
_KINDS: dict[MediaKind, float] = {"audio_video": 0.64, "video": 0.14, "audio": 0.1, "image": 0.08, "text": 0.04}
_CHATTY = 0.3  # share of rows with several turns to a conversation
_STEP = 64  # lengths are multiples of it: every new shape of a matrix costs the library milliseconds of preparation
_FOREIGN = 0.07  # share of rows whose pictures (or sounds) are not of this world


@dataclass
class Row:
    """One row of a batch. segments: 0 for the prompt, then one number per conversation; answers: the questions with the
    span of their answer tokens, the end token included."""

    tokens: list[int]
    positions: list[int]
    segments: list[int]
    answers: list[tuple[Question, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """tokens, positions: (b, n). mask: bool (b, 1, n, n). at: flat indices whose next token is of an answer.
    targets, owners: that token, and the number of its question. asked: all questions."""

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    at: Tensor
    targets: Tensor
    owners: Tensor
    asked: tuple[Question, ...]


def start_row(tokenizer: SentencePieceProcessor, kind: MediaKind, video: Sequence[int], audio: Sequence[int]) -> Row:
    """The prompt up to the first question, tokenised as the runtime does: text by text, <s> before the first.

    Args:
        video, audio: what stands where the media go: tokens of facts, or VIDEO_PLACE and AUDIO_PLACE as often as there
            are embeds.
    """
    return _prompt([BOS, *_with_media(tokenizer, MESSAGES[kind], video, audio)])


def add_conversation(row: Row, tokenizer: SentencePieceProcessor, asked: Sequence[Question], room: int) -> bool:
    """Append turns that see the prompt and each other; false, and nothing done, where the row gets beyond `room`."""
    start = row.segments.index(1) if 1 in row.segments else len(row.tokens)
    tokens: list[int] = []
    answers: list[tuple[Question, int, int]] = []
    for question in asked:
        tokens += tokenizer.encode(turn(question.text))
        answer = [*tokenizer.encode(question.answer), EOS]
        answers.append((question, len(row.tokens) + len(tokens), len(row.tokens) + len(tokens) + len(answer)))
        tokens += answer
    if len(row.tokens) + len(tokens) > room:
        return False
    segment = row.segments[-1] + 1
    row.tokens += tokens
    row.positions += range(start, start + len(tokens))
    row.segments += [segment] * len(tokens)
    row.answers += answers
    return True


def fill_row(
    row: Row, tokenizer: SentencePieceProcessor, clip: Clip, kind: MediaKind, sources: tuple[Source, Source],
    rng: Random, room: int, weights: Mapping[str, float],
) -> None:  # fmt: skip
    """Questions about a clip until the row is full, now and then in conversations of several turns.

    Args:
        sources: where the pictures and the sounds of the row come from.
        room: tokens of a row. weights: of the kinds of question.
    """
    drawn = questions(clip, rng, 24, IMAGE_MAKERS if kind == "image" else MAKERS, weights)
    pool = [asked for asked in (with_sources(each, *sources) for each in drawn) if _is_wanted(asked, rng)]
    chatty = rng.random() < _CHATTY
    most = 6 if "foreign" in sources else 4 if kind == "text" else len(pool)  # or one answer comes again and again
    while pool and len(row.answers) < most:
        length = rng.randint(2, 4) if chatty else 1
        if not add_conversation(row, tokenizer, pool[:length], room):
            break
        pool = pool[length:]


def sample_row(tokenizer: SentencePieceProcessor, rng: Random, room: int, weights: Mapping[str, float]) -> Row:
    """A random clip as text, with questions about it; room, weights: as for `fill_row`."""
    clip = sample_clip(rng)
    kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
    sources = sources_of(kind, rng, _FOREIGN)
    if rng.random() < _AS_MEDIA:
        seen, said = seen_tokens(clip, kind, sources[0], tokenizer), heard_tokens(clip, sources[1], tokenizer)
    else:
        seen = tokenizer.encode(_video_text(clip, kind, sources[0]))
        said = tokenizer.encode(_audio_text(clip, sources[1]))
    row = start_row(tokenizer, kind, seen, said)
    fill_row(row, tokenizer, clip, kind, sources, rng, room, weights)
    return row


def start_long_row(
    tokenizer: SentencePieceProcessor, parts: Sequence[tuple[str, Sequence[int], Sequence[int] | None]]
) -> Row:
    """The prompt of `--long segments` up to the first question.

    Args:
        parts: the words that introduce each, and what stands for its video and its audio; None: a clip without sound.
    """
    tokens, text = [BOS], ""
    for intro, video, audio in parts:
        message = MESSAGES["video" if audio is None else "audio_video"]
        tokens += _with_media(tokenizer, text + intro + message, video, audio or ())
        text = _BETWEEN
    return _prompt(tokens)


def sample_long_row(tokenizer: SentencePieceProcessor, rng: Random) -> Row:
    """A long clip as the facts of its parts, each introduced with its times, and questions about all of it."""
    clip, parts = sample_parts(rng)
    shown = [part_of(clip, part) for part in parts]
    heard = rng.random() < 0.8
    row = start_long_row(
        tokenizer,
        [
            (
                part.intro,
                seen_tokens(one, "video", "own", tokenizer),
                heard_tokens(one, "own", tokenizer) if heard else None,
            )
            for part, one in zip(parts, shown, strict=True)
        ],
    )
    room = len(row.tokens) + _LONG_ROOM
    for asked in long_questions(clip, parts, rng, _MOST_LONG):
        if heard or asked.needs == "video":
            add_conversation(row, tokenizer, [asked], room)
    return row


def batch_of(rows: Sequence[Row]) -> Batch:
    """Rows padded to one length, with their mask and targets."""
    length = _STEP * -(-max(len(row.tokens) for row in rows) // _STEP)
    tokens, positions = torch.zeros(2, len(rows), length, dtype=torch.long)
    segments = torch.full((len(rows), length), -1)
    at: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    asked: list[Question] = []
    for number, row in enumerate(rows):
        size = len(row.tokens)
        tokens[number, :size] = torch.tensor(row.tokens)
        positions[number, :size] = torch.tensor(row.positions)
        segments[number, :size] = torch.tensor(row.segments)
        for question, start, end in row.answers:
            at += range(number * length + start - 1, number * length + end - 1)
            targets += row.tokens[start:end]
            owners += [len(asked)] * (end - start)
            asked.append(question)
    column, line = segments.unsqueeze(1), segments.unsqueeze(2)
    mask = ((column == 0) | (column == line)) & torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(
        tokens,
        positions,
        mask.unsqueeze(1),
        torch.tensor(at, dtype=torch.long),
        torch.tensor(targets, dtype=torch.long),
        torch.tensor(owners, dtype=torch.long),
        tuple(asked),
    )


def sources_of(kind: MediaKind, rng: Random, foreign: float) -> tuple[Source, Source]:
    """Where the pictures and the sounds of a row come from; foreign: the share of those from outside this world."""

    def of(present: bool) -> Source:
        return ("foreign" if rng.random() < foreign else "own") if present else "none"

    return of(kind in ("video", "audio_video", "image")), of(kind in ("audio", "audio_video"))


def seen_tokens(clip: Clip, kind: MediaKind, source: Source, tokenizer: SentencePieceProcessor) -> list[int]:
    """The line that stands for pictures, and that the video branch should write."""
    if source == "foreign":
        return foreign_tokens(tokenizer, VIDEO_EMBEDS)
    words = picture_line(clip.things) if kind == "image" else video_line(clip)
    return tokens_of(words, tokenizer, VIDEO_EMBEDS)


def heard_tokens(clip: Clip, source: Source, tokenizer: SentencePieceProcessor) -> list[int]:
    """The line that stands for sounds, and that the audio branch should write."""
    foreign = source == "foreign"
    return foreign_tokens(tokenizer, AUDIO_EMBEDS) if foreign else audio_tokens(clip, tokenizer, AUDIO_EMBEDS)


def _with_media(
    tokenizer: SentencePieceProcessor, text: str, video: Sequence[int], audio: Sequence[int]
) -> Iterator[int]:
    """The tokens of a message up to the last of its media."""
    pieces = _MEDIA.split(text)
    for words, name in zip(pieces[::2], pieces[1::2], strict=False):
        yield from tokenizer.encode(words)
        yield from video if name == "video" else audio


def _prompt(tokens: list[int]) -> Row:
    return Row(tokens, list(range(len(tokens))), [0] * len(tokens))


def _is_wanted(asked: Question, rng: Random) -> bool:
    """Refusals are all alike: a few of them teach as much as many."""
    return asked.kind not in ("refusal", "nothing") or rng.random() < (0.5 if asked.kind == "refusal" else 0.15)


def _video_text(clip: Clip, kind: MediaKind, source: Source) -> str:
    if source == "foreign":
        return FOREIGN
    return image_facts(clip.things) if kind == "image" else video_facts(clip)


def _audio_text(clip: Clip, source: Source) -> str:
    return FOREIGN if source == "foreign" else audio_facts(clip)
