from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from vllama.runtime import Embeds, Engine, Sampling, Turn
from vllama.runtime.history import History, Segments, rows_of
from vllama.runtime.llm.backbone import Backbone
from vllama.runtime.prompt import Media

N_CTX, MOST = 256, 12


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.open("miniature", device="cpu", threads=1, n_ctx=N_CTX) as engine:
        yield engine


@pytest.fixture(scope="module")
def media(engine: Engine) -> Media:
    rows = np.ones((8, engine.backbone.hidden_size), np.float32)
    return Media(Embeds(rows, "video"), num_frames=1, seconds="0.0")


def talked(engine: Engine, media: Media, *, summarise: bool = False) -> History:
    """As much as two contexts hold."""
    history = History(engine.spec, engine.backbone, summarise=summarise)
    history.add(Turn("What happens?", media, "A circle moves."), media)
    while rows_of(history.prompt(Turn("And?"), media)) < 2 * N_CTX:
        history.add(Turn("And then?", answer="It stands still."), media)
    return history


def written(backbone: Backbone, segments: Segments) -> bytes:
    return b"".join(backbone.piece(token) for segment in segments if isinstance(segment, list) for token in segment)


def never(segments: Segments, sampling: Sampling) -> str:
    raise AssertionError(segments)


def test_what_fits_stands_in_the_prompt_as_it_was_said(engine: Engine, media: Media) -> None:
    history = History(engine.spec, engine.backbone, summarise=True)
    history.add(Turn("What happens?", media, "A circle moves."), media)
    segments = history.fitting(Turn("And then?"), media, MOST, never)
    assert b"What happens?" in written(engine.backbone, segments)
    assert (history.left_out, len(history.turns)) == (0, 1)


def test_old_turns_are_left_out_and_the_media_are_not(engine: Engine, media: Media) -> None:
    history = talked(engine, media)
    said = len(history.turns)
    segments = history.fitting(Turn("And?"), media, MOST, never)
    assert rows_of(segments) <= 0.75 * (N_CTX - MOST)
    assert 0 < history.left_out < said == len(history.turns)
    assert [segment for segment in segments if isinstance(segment, Embeds)] == [media.video]
    assert b"What happens?" not in written(engine.backbone, segments)


def test_a_summary_takes_their_place_until_all_is_forgotten(engine: Engine, media: Media) -> None:
    history = talked(engine, media, summarise=True)
    asked: list[Segments] = []

    def summed_up(segments: Segments, sampling: Sampling) -> str:
        asked.append(segments)
        return "A circle moved and stood still."

    segments = history.fitting(Turn("And?"), media, MOST, summed_up)
    assert b"A circle moved and stood still." in written(engine.backbone, segments)
    assert [segment for segment in segments if isinstance(segment, Embeds)] == [media.video]
    assert history.left_out == len(history.turns)
    assert [rows_of(prompt) < N_CTX for prompt in asked] == [True]
    history.clear()
    assert (history.turns, history.left_out) == ((), 0)
    assert b"A circle" not in written(engine.backbone, history.prompt(Turn("And?"), media))


def test_where_a_summary_was_cancelled_turns_are_left_out(engine: Engine, media: Media) -> None:
    alone, cancelled = talked(engine, media), talked(engine, media, summarise=True)
    for history in (alone, cancelled):
        history.fitting(Turn("And?"), media, MOST, lambda segments, sampling: "")
    assert 0 < cancelled.left_out == alone.left_out < len(alone.turns)
