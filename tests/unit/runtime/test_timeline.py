from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest

from vllama.runtime import timeline
from vllama.runtime.errors import SpecError
from vllama.runtime.remembered import Remembered
from vllama.runtime.timeline import Budget, ClipFeature, FrameFeature, Timeline, nearest
from vllama.runtime.types import Span


def _timeline(indices: list[int], length: int = 100, rate: float = 10.0) -> Timeline:
    timeline = Timeline("model", "content", "video", length, length / rate, rate, sound=True)
    for index in indices:
        timeline.add_frame(FrameFeature(index, index / rate, np.full((2, 3), index, np.float16)))
    return timeline


def test_whole_clip_takes_the_frames_of_the_rule() -> None:
    timeline = _timeline(list(range(100)))
    assert [f.index for f in timeline.choose_frames(8)] == [0, 12, 25, 37, 50, 62, 75, 87]


def test_span_takes_the_same_rule_over_its_seconds() -> None:
    timeline = _timeline(list(range(100)))
    assert [f.index for f in timeline.choose_frames(4, Span(2.0, 4.0))] == [20, 25, 30, 35]
    assert [f.index for f in timeline.choose_frames(4, Span.last(2.0))] == [80, 85, 90, 95]


def test_sparse_timeline_gives_each_near_frame_once() -> None:
    timeline = _timeline([0, 50, 90])
    assert [f.index for f in timeline.choose_frames(8, Span(0.0, 10.0))] == [0, 50, 90]
    assert [f.index for f in timeline.choose_frames(8, Span(4.0, 6.0))] == [50]
    assert [f.index for f in timeline.choose_frames(8, Span(1.0, 2.0))] == [0]


def test_empty_timeline_shows_nothing() -> None:
    assert _timeline([]).choose_frames(8) == []
    assert _timeline([]).choose_clips(8, 2.0, Span(0.0, 1.0)) == []


def test_whole_clip_hears_the_clips_of_the_rule_in_their_order() -> None:
    timeline = _timeline([])
    whole = [ClipFeature(start, start + 2.0, np.zeros(4, np.float16)) for start in (0.0, 0.5, 1.0)]
    timeline.replace_whole_clips(tuple(whole))
    timeline.add_clip(ClipFeature(6.0, 8.0, np.ones(4, np.float16)))
    assert [c.start for c in timeline.choose_clips(3, 2.0)] == [0.0, 0.5, 1.0]
    assert [c.start for c in timeline.choose_clips(3, 2.0, Span(5.0, 8.0))] == [6.0, 6.0, 6.0]
    assert [c.start for c in timeline.choose_clips(2, 2.0, Span(0.0, 4.0))] == [0.0, 1.0]
    assert timeline.choose_clips(3, 2.0, Span(3.5, 5.5)) == [], "there is no sound"


def test_unbounded_timeline_keeps_everything() -> None:
    timeline = _timeline(list(range(0, 1000, 2)), length=1000)
    assert timeline.frame_count == 500
    assert [f.index for f in timeline.frames_in()] == list(range(0, 1000, 2))


def test_all_pictures_of_a_span_come_in_order_whatever_order_they_came_in() -> None:
    timeline = _timeline([50, 10, 30, 20, 40])
    assert [f.index for f in timeline.frames_in(Span(2.0, 4.0))] == [20, 30, 40]
    assert [f.index for f in timeline.frames_in(Span.last(6.0))] == [40, 50]
    assert timeline.frames_in(Span(6.0, 7.0)) == []


def test_picture_that_is_added_later_is_chosen() -> None:
    timeline = _timeline([0, 90])
    assert [f.index for f in timeline.choose_frames(2)] == [0, 90]
    timeline.add_frame(FrameFeature(50, 5.0, np.zeros((2, 3), np.float16)))
    assert [f.index for f in timeline.choose_frames(2)] == [0, 50]


def test_forgotten_span_is_not_seen_nor_heard() -> None:
    timeline = _timeline(list(range(0, 100, 10)))
    clips = tuple(ClipFeature(start, start + 2.0, np.zeros(4, np.float16)) for start in (0.0, 3.0, 6.0))
    timeline.replace_whole_clips(clips)
    for clip in clips:
        timeline.add_clip(clip)
    timeline.remembered = Remembered(np.zeros((2, 3), np.float32), (0.0,), 10)
    timeline.forget(Span(3.0, 5.0))
    assert timeline.remembered is None
    assert [f.index for f in timeline.frames_in()] == [0, 10, 20, 60, 70, 80, 90]
    assert [c.start for c in timeline.choose_clips(3, 2.0)] == [0.0, 6.0]
    assert timeline.clip_count == 4


def test_each_time_that_is_given_up_is_counted_whatever_is_left_of_it() -> None:
    timeline = _timeline([0, 10])
    timeline.replace_whole_clips((ClipFeature(4.0, 6.0, np.zeros(4, np.float16)),))
    timeline.add_clip(ClipFeature(7.0, 9.0, np.zeros(4, np.float16)))
    counts = []
    for span in (Span(2.0, 3.0), Span(0.5, 1.5), Span(0.5, 1.5), Span(5.0, 5.5), Span(8.0, 9.0), Span(0.0, 10.0)):
        timeline.forget(span)
        counts.append(timeline.forgets)
    assert counts == [1, 2, 3, 4, 5, 6]


def test_nearest_is_the_first_of_several_as_near() -> None:
    known = np.array([0.0, 1.0, 1.0, 2.0])
    assert nearest(known, np.array([-1.0, 0.5, 1.0, 1.4, 1.5, 9.0])) == [0, 0, 1, 1, 1, 3]
    assert nearest(np.array([4.0]), np.array([0.0, 5.0])) == [0, 0]


def test_nearest_equals_the_plain_search() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        known = np.sort(random.integers(0, 30, random.integers(1, 20)) / 4)
        wanted = random.integers(-10, 50, 8) / 8
        assert nearest(known, wanted) == [int(np.abs(known - value).argmin()) for value in wanted], (known, wanted)


def _live(budget: Budget | None) -> Timeline:
    return Timeline("model", "", "video", 0, 0.0, 1.0, sound=True, live=True, budget=budget)


def _arrive(timeline: Timeline, seconds: int, shape: tuple[int, ...] = (2, 3)) -> None:
    for second in range(seconds):
        timeline.add_frame(FrameFeature(second, float(second), np.zeros(shape, np.float16)))
        timeline.add_clip(ClipFeature(float(second), second + 2.0, np.zeros(4, np.float16)))


def test_live_timeline_grows_and_is_asked_as_a_whole() -> None:
    timeline = _live(None)
    _arrive(timeline, 80)
    assert (timeline.length, timeline.duration) == (80, 81.0)
    assert [f.index for f in timeline.choose_frames(8)] == list(range(0, 80, 10))
    assert [c.start for c in timeline.choose_clips(4, 2.0)] == [0.0, 20.0, 39.0, 59.0]
    assert [f.index for f in timeline.choose_frames(8, Span.last(4.0))] == [77, 78, 79]


def test_budget_of_bytes_holds_at_every_moment_and_thins_the_past() -> None:
    timeline = _live(Budget(bytes=4000))
    for second in range(5000):
        before = timeline.frame_count
        timeline.add_frame(FrameFeature(second, float(second), np.zeros((2, 3), np.float16)))
        assert timeline.frame_count >= before  # one comes, at most one goes
        timeline.add_clip(ClipFeature(float(second), second + 2.0, np.zeros(4, np.float16)))
        assert timeline.bytes <= 4000, second
    frames, clips = timeline.frame_count, timeline.clip_count
    assert 12 * frames + 8 * clips == timeline.bytes > 3900
    assert min(frames, clips) > 150
    assert [f.index for f in timeline.frames_in(Span.last(20.0))] == list(range(4981, 5000))
    assert np.diff([f.index for f in timeline.choose_frames(8)]).max() < 2 * 5000 / 8


def test_sound_that_begins_late_finds_room() -> None:
    timeline = _live(Budget(bytes=12 * 200))
    for second in range(1000):
        timeline.add_frame(FrameFeature(second, float(second), np.zeros((2, 3), np.float16)))
    for second in range(1000, 1100):
        timeline.add_clip(ClipFeature(float(second), second + 2.0, np.zeros(4, np.float16)))
        assert timeline.bytes <= 12 * 200
    assert timeline.clip_count > 50
    assert timeline.frame_count > 100


def test_pictures_and_small_sounds_thin_alike() -> None:
    """Features of full size, of which stills count little: hours of sounds must not leave a handful of pictures."""
    timeline = _live(Budget(bytes=24_000_000))
    still, sound = np.zeros((32, 768), np.float16), np.zeros(1024, np.float16)
    for second in range(3 * 3600):
        moving = second // 300 % 2
        timeline.add_frame(FrameFeature(second, float(second), still.copy() if moving else still))
        timeline.add_clip(ClipFeature(float(second), second + 2.0, sound))
        timeline.add_clip(ClipFeature(second + 0.5, second + 2.5, sound.copy()))
    assert len(timeline.frames_in(Span(10_740.0, timeline.duration))) == 60
    frames = np.array([frame.time for frame in timeline.frames_in()])
    sounds = np.array([start for start in np.arange(0.0, 3 * 3600, 0.5) if timeline.has_clip(start)])
    for age in (60, 600, 6000):
        since = timeline.duration - age
        assert 0.9 < 2 * (frames >= since).sum() / (sounds >= since).sum() < 1.1, age


def test_budget_of_seconds_keeps_the_newest() -> None:
    timeline = _live(Budget(seconds=30.0))
    _arrive(timeline, 500)
    assert [f.index for f in timeline.frames_in()] == list(range(471, 500))
    assert timeline.clip_count == 29


def test_forgetting_leaves_the_budget_right() -> None:
    timeline = _live(Budget(bytes=2000))
    _arrive(timeline, 300)
    timeline.forget(Span(0.0, 280.0))
    assert timeline.bytes == sum(f.features.nbytes for f in timeline.frames_in()) + 8 * timeline.clip_count
    _arrive(timeline, 1000)
    assert timeline.bytes <= 2000


@pytest.mark.parametrize("budget", [{"bytes": 0}, {"seconds": -1.0}])
def test_budget_of_nothing_is_refused(budget: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="more than 0"):
        Budget(**budget)  # type: ignore[arg-type]


def test_readers_and_the_writer_do_not_disturb_each_other() -> None:
    timeline = _live(Budget(bytes=12 * 300))
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            chosen = [f.index for f in timeline.choose_frames(8, Span.last(50.0))]
            every = [f.index for f in timeline.frames_in()]
            if chosen != sorted(set(chosen)) or every != sorted(set(every)):
                wrong.append(f"{chosen} of {every}")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        _arrive(timeline, 3000)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not wrong
    assert timeline.length == 3000


def test_a_live_timeline_shows_and_sounds_nothing_of_a_time_without_anything() -> None:
    timeline = _live(Budget(bytes=100_000))
    _arrive(timeline, 20)
    timeline.reach(80.0)
    assert timeline.duration == 80.0
    assert timeline.choose_frames(8, Span.last(10.0)) == []
    assert timeline.choose_clips(4, 2.0, Span.last(10.0)) == []
    assert [f.index for f in timeline.choose_frames(2, Span(0.0, 10.0))] == [0, 5]
    assert [c.start for c in timeline.choose_clips(2, 2.0, Span(17.0, 30.0))] == [17.0, 19.0]
    timeline.reach(10.0)
    assert timeline.duration == 80.0


def test_sound_that_only_touches_a_span_is_not_of_it() -> None:
    timeline = _live(None)
    for start in (0.0, 6.0):
        timeline.add_clip(ClipFeature(start, start + 2.0, np.zeros(4, np.float16)))
    assert timeline.choose_clips(4, 2.0, Span(2.0, 6.0)) == []


def test_the_time_held_is_that_since_the_oldest_of_what_was_seen_and_heard() -> None:
    timeline = _live(None)
    timeline.add_clip(ClipFeature(2.0, 4.0, np.zeros(4, np.float16)))
    timeline.add_frame(FrameFeature(5, 5.0, np.zeros((2, 3), np.float16)))
    assert timeline.held == 3.0


def test_the_only_picture_is_kept_where_the_budget_has_no_room_for_it() -> None:
    timeline = _live(Budget(bytes=4))
    for second in range(2):
        timeline.add_frame(FrameFeature(second, float(second), np.zeros((2, 3), np.float16)))
        assert timeline.frame_count == 1


def test_the_only_sound_is_kept_however_old_it_is() -> None:
    timeline = _live(Budget(bytes=12 * 20))
    for start in (0.0, 10.0):
        timeline.add_clip(ClipFeature(start, start + 2.0, np.zeros(4, np.float16)))
    timeline.forget(Span(0.0, 5.0))
    for second in range(12, 100):
        timeline.add_frame(FrameFeature(second, float(second), np.zeros((2, 3), np.float16)))
    assert timeline.has_clip(10.0)


def test_time_that_goes_on_without_anything_new_ends_the_budget_of_seconds() -> None:
    timeline = _live(Budget(seconds=30.0))
    _arrive(timeline, 10)
    assert timeline.held == 11.0
    for second in range(11, 60):
        timeline.reach(float(second))
    assert (timeline.frame_count, timeline.clip_count, timeline.held) == (0, 0, 0.0)


def test_features_that_stand_at_many_times_take_their_room_once() -> None:
    timeline = _live(Budget(bytes=10_000_000))
    still = np.zeros((32, 768), np.float16)
    for second in range(100):
        timeline.add_frame(FrameFeature(second, float(second), still))
    assert timeline.bytes == still.nbytes + 99 * 4096
    timeline.forget(Span(0.0, 97.0))
    assert timeline.bytes == still.nbytes + 4096
    timeline.forget(Span(0.0, 99.0))
    assert timeline.bytes == 0


def test_what_is_forgotten_while_it_is_sorted_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    live = _live(None)
    live.add_frame(FrameFeature(0, 0.0, np.zeros((2, 3), np.float16)))
    features = live.frame(0)
    assert features is not None
    gone = weakref.ref(features.features)
    del features

    class Slow(timeline._Sorted):
        def __init__(self, frames: list[FrameFeature], version: int) -> None:
            live.forget(Span(0.0, 1.0))  # by another thread, which holds no lock longer than this
            super().__init__(frames, version)

    monkeypatch.setattr(timeline, "_Sorted", Slow)
    live.frames_in()
    assert gone() is None
    assert live.frames_in() == []


def test_what_is_given_up_is_not_held_by_an_earlier_question() -> None:
    timeline = _live(Budget(seconds=10.0))
    timeline.add_frame(FrameFeature(0, 0.0, np.zeros((2, 3), np.float16)))
    gone = weakref.ref(timeline.frames_in()[0].features)
    for second in range(1, 20):
        timeline.add_frame(FrameFeature(second, float(second), np.zeros((2, 3), np.float16)))
    assert gone() is None


def test_what_came_fast_does_not_outlive_the_budget_by_coming_slowly_since() -> None:
    timeline = _live(Budget(seconds=30.0))
    for index in range(300):
        timeline.add_frame(FrameFeature(index, index / 10, np.zeros((2, 3), np.float16)))
    for second in range(100):
        timeline.add_frame(FrameFeature(300 + second, 60.0 + second, np.zeros((2, 3), np.float16)))
    assert timeline.frames_in()[0].time >= 159.0 - 30.0
