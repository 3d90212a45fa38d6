"""Lines with a fixed place for every fact."""

from __future__ import annotations

from vllama.export.mini.lines import picture_line, video_line
from vllama.export.mini.world import Clip, Event, Thing

RED, WHITE = Thing("red", "cross", 0.5, 0.8, 0.15), Thing("white", "star", 0.2, 0.2, 0.15)
TURNS = Event(0, "turns", 0.4, 0.4, 0.0, "blue")


def test_a_missing_thing_leaves_its_places_to_stops() -> None:
    words = picture_line([RED, WHITE])
    assert " ".join(words) == "two : red cross bottom . , white star top left . . . . . ."
    assert len(words) == len(picture_line([RED])) == 17


def test_events_stand_in_the_same_places_however_many_things_there_are() -> None:
    event = ["red", "cross", "turns", "blue", "at", "3", "."]
    for things in ((RED,), (RED, WHITE)):
        assert video_line(Clip(0, 4.0, things, (TURNS,), ()))[17:] == event
    assert video_line(Clip(0, 4.0, (RED,), (), ()))[17:] == ["nothing", "happens", "."]
