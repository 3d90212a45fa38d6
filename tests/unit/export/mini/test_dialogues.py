from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor

from vllama.export.mini.dialogues import (
    AUDIO_PLACE,
    VIDEO_PLACE,
    MediaKind,
    add_conversation,
    batch_of,
    sample_row,
    start_long_row,
    start_row,
)
from vllama.export.mini.facts import audio_facts, video_facts
from vllama.export.mini.kinds import questions
from vllama.export.mini.questions import yes_no
from vllama.export.mini.sampler import sample_clip
from vllama.export.mini.tokenizer import read_tokenizer, train_tokenizer
from vllama.export.vocabulary import read_vocabulary
from vllama.runtime.llm.backbone import Backbone
from vllama.runtime.prompt import Media, Part, Turn, build_prompt
from vllama.runtime.registry import find_spec
from vllama.runtime.segments import plan_segments
from vllama.runtime.spec import ModelSpec
from vllama.runtime.types import Embeds, Span


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(folder, clips=600)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> SentencePieceProcessor:
    return read_tokenizer(folder)


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return find_spec("miniature")


def test_tokenizer_is_one_of_a_llama(folder: Path) -> None:
    vocabulary = read_vocabulary(folder, 768)
    vocabulary.check_encodes("</s>")
    assert (vocabulary.unk, vocabulary.bos, vocabulary.eos) == (0, 1, 2)
    assert not vocabulary.notes


def test_tokenizer_does_not_say_where_it_was_made(folder: Path) -> None:
    assert str(folder).encode() not in (folder / "tokenizer.model").read_bytes()


def test_tokenizer_gives_every_text_back(tokenizer: SentencePieceProcessor) -> None:
    for text in (
        "What colour is the circle?",
        "  two  spaces ",
        "Größe? 日本 \n 42%",
        video_facts(sample_clip(Random(1))),
    ):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_plain_words_are_single_pieces(tokenizer: SentencePieceProcessor) -> None:
    for word in [
        "red",
        "circle",
        "moves",
        "left",
        "grows",
        "blinks",
        "rotates",
        "disappears",
        "two",
        "beeps",
        "rising",
        "yes",
        "no",
        "before",
        "after",
        "6",
    ]:
        assert len(tokenizer.encode(word)) == 1, word


@pytest.mark.parametrize("kind", ["audio_video", "video", "image", "audio", "text"])
def test_rows_are_tokenised_as_the_runtime_does(
    kind: MediaKind, tokenizer: SentencePieceProcessor, spec: ModelSpec
) -> None:
    rng = Random(2)
    asked = questions(sample_clip(rng), rng, 3)
    video = Embeds(np.zeros((4, 8), np.float32), "image" if kind == "image" else "video")
    audio = Embeds(np.zeros((2, 8), np.float32), "audio")
    media = Media(
        video=video if kind in ("audio_video", "video", "image") else None,
        audio=audio if kind in ("audio_video", "audio") else None,
    )
    turns = [Turn(one.text, Media(), one.answer) for one in asked]
    turns[0] = replace(turns[0], media=media)
    turns[-1] = replace(turns[-1], answer=None)
    runtime = SimpleNamespace(_llama=SimpleNamespace(bos=1, eos=2, tokenize=tokenizer.encode))
    expected: list[int] = []
    for segment in Backbone.tokenize(runtime, build_prompt(turns, spec)):  # type: ignore[arg-type]
        if isinstance(segment, Embeds):
            expected += [VIDEO_PLACE] * 4 if segment is video else [AUDIO_PLACE] * 2
        else:
            expected += segment
    row = start_row(tokenizer, kind, [VIDEO_PLACE] * 4, [AUDIO_PLACE] * 2)
    assert add_conversation(row, tokenizer, asked, room=1000)
    _, start, _ = row.answers[-1]
    assert row.tokens[:start] == expected


@pytest.mark.parametrize("heard", [True, False])
def test_long_rows_are_tokenised_as_the_runtime_does(
    heard: bool, tokenizer: SentencePieceProcessor, spec: ModelSpec
) -> None:
    video, audio = Embeds(np.zeros((4, 8), np.float32), "video"), Embeds(np.zeros((2, 8), np.float32), "audio")
    intros = [part.intro for part in plan_segments(Span(0.0, 65.0), 3, 1)]
    media = Media(parts=tuple(Part(intro, Media(video=video, audio=audio if heard else None)) for intro in intros))
    runtime = SimpleNamespace(_llama=SimpleNamespace(bos=1, eos=2, tokenize=tokenizer.encode))
    expected: list[int] = []
    for segment in Backbone.tokenize(runtime, build_prompt([Turn("Is it red?", media)], spec)):  # type: ignore[arg-type]
        if isinstance(segment, Embeds):
            expected += [VIDEO_PLACE] * 4 if segment is video else [AUDIO_PLACE] * 2
        else:
            expected += segment
    places = [VIDEO_PLACE] * 4, [AUDIO_PLACE] * 2 if heard else None
    row = start_long_row(tokenizer, [(intro, *places) for intro in intros])
    asked = yes_no("is it", "Is it red?", "red", "the circle is blue", False)
    assert add_conversation(row, tokenizer, [asked], 1000)
    _, start, _ = row.answers[-1]
    assert row.tokens[:start] == expected


def test_conversations_see_the_prompt_and_themselves_only(tokenizer: SentencePieceProcessor) -> None:
    rng = Random(3)
    clip = sample_clip(rng)
    asked = questions(clip, rng, 3)
    row = start_row(tokenizer, "audio_video", tokenizer.encode(video_facts(clip)), tokenizer.encode(audio_facts(clip)))
    prompt = len(row.tokens)
    add_conversation(row, tokenizer, asked[:1], 1000)
    second = len(row.tokens)
    add_conversation(row, tokenizer, asked[1:], 1000)
    mask = batch_of([row]).mask[0, 0]
    assert row.positions[prompt] == row.positions[second] == prompt
    assert mask[second, :prompt].all()
    assert not mask[second:, prompt:second].any()
    assert not torch.triu(mask[: len(row.tokens), : len(row.tokens)], 1).any()


def test_targets_are_the_answers_with_their_end(tokenizer: SentencePieceProcessor) -> None:
    rng = Random(5)
    rows = [sample_row(tokenizer, rng, 200, {}) for _ in range(4)]
    batch = batch_of(rows)
    for number, question in enumerate(batch.asked):
        tokens: Sequence[int] = batch.targets[batch.owners == number].tolist()
        assert tokens[-1] == 2
        assert tokenizer.decode(list(tokens[:-1])) == question.answer
    flat = batch.tokens.flatten()
    assert torch.equal(flat[batch.at + 1], batch.targets)


def test_a_row_keeps_its_room(tokenizer: SentencePieceProcessor) -> None:
    rng = Random(7)
    assert all(len(sample_row(tokenizer, rng, 120, {}).tokens) <= 120 for _ in range(20))
