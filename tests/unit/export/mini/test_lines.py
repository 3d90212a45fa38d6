"""Lines with a fixed place for every fact."""

from __future__ import annotations

from pathlib import Path
from random import Random

from vllama.export.mini.lines import picture_line, tokens_of, video_line
from vllama.export.mini.sampler import sample_clip
from vllama.export.mini.tokenizer import read_tokenizer
from vllama.export.mini.world import Clip, Event, Thing

TOKENIZER = Path(__file__).parents[4] / "export" / "mini" / "weights" / "llama-miniature-hf"
RED, WHITE = Thing("red", "cross", 0.5, 0.8, 0.15), Thing("white", "star", 0.2, 0.2, 0.15)
TURNS = Event(0, "turns", 0.4, 0.4, 0.0, "blue")


def test_a_missing_thing_leaves_its_places_to_stops() -> None:
    words = picture_line([RED, WHITE])
    assert " ".join(words) == "two <bottom> red cross bottom . <top left> white star top left . . . . ."
    assert len(words) == len(picture_line([RED])) == 16


def test_events_stand_in_the_same_places_however_many_things_there_are() -> None:
    event = ["<turns>", "red", "cross", "turns", "blue", "at", "3"]
    for things in ((RED,), (RED, WHITE)):
        assert video_line(Clip(0, 4.0, things, (TURNS,), ()))[16:] == event
    assert video_line(Clip(0, 4.0, (RED,), (), ()))[16:] == [".", "nothing", "happens"]


def test_places_and_deeds_are_tokens_that_no_text_has() -> None:
    tokenizer, rng = read_tokenizer(TOKENIZER), Random(0)
    lines = [video_line(sample_clip(rng)) for _ in range(400)]
    codes = {
        word: number
        for line in lines
        for word, number in zip(line, tokens_of(line, tokenizer, 32), strict=False)
        if word.startswith("<")
    }
    assert len(codes) == len(set(codes.values())) == 9 + 12
    written = set(tokenizer.encode("".join(map(chr, [9, 10, *range(32, 0x800)]))))
    assert not written & set(codes.values())
