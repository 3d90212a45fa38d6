from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vllama.runtime.fbank import clip_bounds
from vllama.runtime.indexing import Missing, Need, find_missing, is_covered
from vllama.runtime.media import MediaInfo
from vllama.runtime.pixels import frame_indices
from vllama.runtime.segments import plan_segments
from vllama.runtime.spec import ModelSpec
from vllama.runtime.timeline import ClipFeature, FrameFeature, Timeline
from vllama.runtime.types import Span

_RATE = 10
_SECONDS = 60
_LENGTH = _RATE * _SECONDS
_INFO = MediaInfo(Path("clip.mp4"), "video", np.arange(_LENGTH) / _RATE, _RATE, _SECONDS, True, sound_start=0.25)
_MANY = [
    _INFO,
    replace(_INFO, frame_times=np.arange(0.0, 60.0, 3.0), frame_rate=1 / 3),  # slower than a picture each second
    replace(_INFO, frame_times=np.concatenate([np.arange(100) / 10, 40 + np.arange(100) / 10])),  # with a gap
    replace(_INFO, frame_times=np.random.default_rng(0).exponential(0.1, 500).cumsum(dtype=np.float64)),  # unsteady
]


def _timeline(spec: ModelSpec, info: MediaInfo = _INFO) -> Timeline:
    timeline = Timeline("m", "c", "video", len(info.frame_times), _SECONDS, info.frame_rate, sound=True)
    assert spec.audio
    timeline.samples = 59 * spec.audio.sample_rate
    return timeline


def _encode(timeline: Timeline, missing: Missing, spec: ModelSpec, info: MediaInfo = _INFO) -> None:
    assert spec.audio
    for index in missing.frames:
        timeline.add_frame(FrameFeature(index, float(info.frame_times[index]), np.zeros((1, 1), np.float16)))
    rate = spec.audio.sample_rate
    clips = [
        ClipFeature(_INFO.sound_start + first / rate, _INFO.sound_start + last / rate, np.zeros(1, np.float16))
        for first, last in (*missing.whole, *missing.clips)
    ]
    if missing.whole:
        timeline.replace_whole_clips(tuple(clips[: len(missing.whole)]))
    for clip in clips[len(missing.whole) :]:
        timeline.add_clip(clip)


def _index(timeline: Timeline, need: Need, spec: ModelSpec, info: MediaInfo = _INFO) -> Missing:
    missing = find_missing(info, timeline, need, spec)
    _encode(timeline, missing, spec, info)
    timeline.fps = max(timeline.fps, need.fps_throughout)
    timeline.listened |= need.fps_throughout > 0 and need.audio
    return missing


def _numbers(frames: list[FrameFeature]) -> list[int]:
    return [frame.index for frame in frames]


def test_question_about_the_whole_clip_needs_what_the_rule_says(vicuna_spec: ModelSpec) -> None:
    timeline = _timeline(vicuna_spec)
    missing = find_missing(_INFO, timeline, Need(), vicuna_spec)
    assert vicuna_spec.audio
    assert missing.frames == frame_indices(vicuna_spec.video.num_frames, _LENGTH)
    assert missing.whole == clip_bounds(59 * vicuna_spec.audio.sample_rate, vicuna_spec.audio)
    assert missing.clips == []


def test_index_needs_the_pictures_of_its_grid_and_all_of_the_sound(vicuna_spec: ModelSpec) -> None:
    missing = find_missing(_INFO, _timeline(vicuna_spec), Need(fps=1.0), vicuna_spec)
    assert set(range(0, _LENGTH, _RATE)) < set(missing.frames)
    assert len(missing.frames) <= _SECONDS + vicuna_spec.video.num_frames
    covered = np.zeros(59 * 16000, bool)
    for first, last in missing.clips:
        covered[first:last] = True
    assert covered.all()
    firsts = [first for first, _ in missing.clips]
    assert np.diff(firsts).max() == 16000  # half overlapping, so that whatever happens is whole in one of them


def test_picture_of_a_grid_is_the_one_that_rounding_put_behind_its_time(vicuna_spec: ModelSpec) -> None:
    late = replace(_INFO, frame_times=np.arange(_LENGTH) / _RATE + 1e-9)
    missing = find_missing(late, _timeline(vicuna_spec), Need(fps=1.0), vicuna_spec)
    assert set(range(0, _LENGTH, _RATE)) <= {*missing.frames}


def test_picture_at_the_end_of_a_span_is_of_it(vicuna_spec: ModelSpec) -> None:
    slow = replace(_INFO, frame_times=np.arange(float(_SECONDS)), frame_rate=1.0)
    missing = find_missing(slow, _timeline(vicuna_spec), Need(span=Span(4.0, 5.0)), vicuna_spec)
    assert {4, 5} <= {*missing.frames}


@pytest.mark.parametrize(
    "needs",
    [
        (Need(), Need()),
        (Need(fps=1.0), Need(), Need(fps=0.5)),
        (Need(), Need(fps=1.0), Need(fps=1.0)),
        (Need(span=Span(3.0, 4.0)), Need(span=Span(3.0, 4.0))),
        (Need(fps=1.0, audio=False), Need(fps=1.0), Need(fps=1.0, audio=False)),
        (Need(fps=1.0), Need(span=Span(10.0, 50.0)), Need(span=Span.last(20.0))),
    ],
)
def test_nothing_is_encoded_twice(vicuna_spec: ModelSpec, needs: tuple[Need, ...]) -> None:
    timeline = _timeline(vicuna_spec)
    seen: set[tuple[str, object]] = set()
    for need in needs:
        missing = _index(timeline, need, vicuna_spec)
        new = {("frame", index) for index in missing.frames} | {("clip", bounds) for bounds in missing.clips}
        new |= {("whole", bounds) for bounds in missing.whole}
        assert len(new) == len(missing)
        assert not new & seen
        seen |= new
    assert len(missing) == 0
    assert is_covered(timeline, needs[-1], vicuna_spec) or needs[-1].span == Span(3.0, 4.0)


def test_question_about_a_span_sees_what_it_would_of_a_fully_encoded_clip(vicuna_spec: ModelSpec) -> None:
    every = Missing(list(range(_LENGTH)), [], [])
    full = _timeline(vicuna_spec)
    _encode(full, every, vicuna_spec)
    timeline = _timeline(vicuna_spec)
    for span in (
        Span(3.0, 4.0), Span(0.0, 60.0), Span.last(7.0), Span(2.03, 2.31), Span(59.2, 59.9), Span(59.95, 60.0),
    ):  # fmt: skip
        missing = _index(timeline, Need(span=span), vicuna_spec)
        assert len(missing.frames) <= 2 * vicuna_spec.video.num_frames
        chosen, wanted = (
            [frame.index for frame in each.choose_frames(vicuna_spec.video.num_frames, span)]
            for each in (timeline, full)
        )
        assert chosen == wanted, span
        starts = [clip.start for clip in timeline.choose_clips(8, 2.0, span)]
        cut = span.within(_SECONDS)
        room = max(cut.end - cut.start - 2.0, 0.0)
        latest = _INFO.sound_start + 57.0
        is_heard = cut.start < latest + 2.0
        rule = [min(max(cut.start + room * i / 8, _INFO.sound_start), latest) for i in range(8) if is_heard]
        np.testing.assert_allclose(starts, rule, atol=1e-4)


def _moments(info: MediaInfo) -> list[Span]:
    return [Span.at(second) for second in (0.0, 0.4, 3.0, 7.0, 8.7, 30.05, 55.5, 59.5, 60.0) if second <= info.duration]


@pytest.mark.parametrize("info", _MANY)
def test_question_about_a_moment_sees_and_hears_what_it_would_of_a_clip_that_is_encoded_throughout(
    vicuna_spec: ModelSpec, info: MediaInfo
) -> None:
    count = vicuna_spec.video.num_frames
    for span in _moments(info):
        full, led, around = (_timeline(vicuna_spec, info) for _ in range(3))
        _index(full, Need(fps=1.0, span=span.within(info.duration)), vicuna_spec, info)
        _index(led, Need(fps=1.0, span=span), vicuna_spec, info)
        _index(around, Need(span=span), vicuna_spec, info)
        for timeline in (led, around):
            pieces = plan_segments(span.within(info.duration), len(full.frames_in(span)), count)
            for looked in (span, *(piece.span for piece in pieces)):
                chosen, wanted = (_numbers(each.choose_frames(count, looked)) for each in (timeline, full))
                assert chosen == wanted, (span, looked)
            assert _numbers(timeline.frames_in(span)) == _numbers(full.frames_in(span)), span
            heard, there = ([c.start for c in each.choose_clips(8, 2.0, span)] for each in (timeline, full))
            assert heard == there, span
        until, all_until = (
            [frame.index for frame in each.frames_in() if frame.time <= span.end] for each in (led, full)
        )
        assert until == all_until, span


def test_of_a_moment_no_more_is_encoded_than_a_question_about_it_can_use(vicuna_spec: ModelSpec) -> None:
    rule, span = {*frame_indices(8, _LENGTH)}, Span.at(30.0)
    led = find_missing(_INFO, _timeline(vicuna_spec), Need(fps=1.0, span=span), vicuna_spec)
    assert {*led.frames} - rule == {*range(0, 31 * _RATE + 1, _RATE)} - rule
    around = find_missing(_INFO, _timeline(vicuna_spec), Need(span=span), vicuna_spec)
    assert {*around.frames} - rule == {*range(23 * _RATE, 31 * _RATE + 1, _RATE)} - rule
    assert led.clips == around.clips
    starts = [_INFO.sound_start + first / 16000 for first, _ in led.clips]
    assert starts == [second + _INFO.sound_start for second in range(21, 31)]
    assert Need(fps=1.0, span=span).fps_throughout == 0.0 < Need(fps=1.0, span=Span(29.0, 30.0)).fps_throughout


def test_moment_of_an_indexed_clip_needs_nothing(vicuna_spec: ModelSpec) -> None:
    timeline = _timeline(vicuna_spec)
    _index(timeline, Need(fps=1.0), vicuna_spec)
    for need in (Need(span=Span.at(30.0)), Need(fps=1.0, span=Span.at(30.0))):
        assert is_covered(timeline, need, vicuna_spec)
        assert len(find_missing(_INFO, timeline, need, vicuna_spec)) == 0


def test_span_of_an_indexed_clip_needs_nothing_unless_it_is_short(vicuna_spec: ModelSpec) -> None:
    timeline = _timeline(vicuna_spec)
    _index(timeline, Need(fps=1.0), vicuna_spec)
    assert is_covered(timeline, Need(span=Span(10.0, 18.0)), vicuna_spec)
    assert not is_covered(timeline, Need(span=Span(10.0, 17.0)), vicuna_spec)
    missing = find_missing(_INFO, timeline, Need(span=Span(10.0, 12.0)), vicuna_spec)
    assert missing.frames
    assert missing.clips == []


def test_without_sound_none_is_encoded_and_none_is_taken_for_encoded(vicuna_spec: ModelSpec) -> None:
    timeline = _timeline(vicuna_spec)
    timeline.samples = None
    quiet = Need(fps=1.0, audio=False)
    missing = find_missing(_INFO, timeline, quiet, vicuna_spec)  # and does not open the file to count
    assert (missing.whole, missing.clips, timeline.samples) == ([], [], None)
    _index(timeline, quiet, vicuna_spec)
    assert is_covered(timeline, quiet, vicuna_spec)
    assert is_covered(timeline, Need(span=Span(10.0, 50.0), audio=False), vicuna_spec)
    assert not is_covered(timeline, Need(), vicuna_spec)
    assert not is_covered(timeline, Need(fps=1.0), vicuna_spec)


def test_sound_that_was_counted_and_is_not_there_is_not_taken_for_encoded(vicuna_spec: ModelSpec) -> None:
    timeline = _timeline(vicuna_spec)
    _index(timeline, Need(), vicuna_spec)
    assert is_covered(timeline, Need(), vicuna_spec)
    timeline.replace_whole_clips(())
    assert timeline.samples
    assert not is_covered(timeline, Need(), vicuna_spec)


def test_sound_shorter_than_a_stretch_is_taken_whole(vicuna_spec: ModelSpec) -> None:
    timeline = _timeline(vicuna_spec)
    timeline.samples = 8000
    missing = find_missing(_INFO, timeline, Need(fps=1.0), vicuna_spec)
    assert missing.whole == [(0, 8000)] * 8
    assert missing.clips == [(0, 8000)]


def test_picture_needs_itself(vicuna_spec: ModelSpec) -> None:
    info = MediaInfo(Path("picture.png"), "image", np.zeros(1), 0.0, 0.0, False)
    timeline = Timeline("m", "c", "image", 1, 0.0, 0.0, sound=False)
    assert find_missing(info, timeline, Need(fps=1.0), vicuna_spec).frames == [0]


def test_picture_that_only_resembles_another_is_missing_where_a_rule_asks_for_it(vicuna_spec: ModelSpec) -> None:
    timeline = _timeline(vicuna_spec)
    _index(timeline, Need(fps=1.0), vicuna_spec)
    rule = frame_indices(vicuna_spec.video.num_frames, _LENGTH)
    features = np.zeros((1, 1), np.float16)
    timeline.add_frame(FrameFeature(rule[1], rule[1] / _RATE, features, of=0, equal=False))
    timeline.add_frame(FrameFeature(10, 1.0, features, of=0, equal=False))
    timeline.add_frame(FrameFeature(rule[2], rule[2] / _RATE, features, of=0, equal=True))
    assert not is_covered(timeline, Need(), vicuna_spec)
    missing = find_missing(_INFO, timeline, Need(fps=1.0), vicuna_spec)
    assert missing.frames == [rule[1]]
    assert rule[1] in missing.exact
    assert 10 not in missing.exact


def test_missing_picture_is_compared_with_the_one_before_it_that_stands_for_itself(vicuna_spec: ModelSpec) -> None:
    timeline = _timeline(vicuna_spec)
    features = np.zeros((1, 1), np.float16)
    for index, of in ((0, None), (100, 0), (150, None), (400, None)):
        timeline.add_frame(FrameFeature(index, index / _RATE, features, of=of))
    timeline.add_frame(FrameFeature(250, 25.0, features, of=150, equal=True))
    timeline.add_frame(FrameFeature(450, 45.0, features, of=400, equal=False))
    missing = find_missing(_INFO, timeline, Need(fps=0.1), vicuna_spec)
    assert {200, 300, 500} <= {*missing.frames}
    assert sorted(missing.known) == [0, 150, 250, 400]  # 250 is an encoded one to the bit, 450 only resembles one


def test_sound_that_an_index_left_out_is_missing_however_dense_its_pictures_are(vicuna_spec: ModelSpec) -> None:
    timeline = _timeline(vicuna_spec)
    for need in (Need(), Need(fps=1.0, audio=False)):
        _index(timeline, need, vicuna_spec)
    assert not is_covered(timeline, Need(fps=1.0), vicuna_spec)


def test_span_of_an_index_without_sound_still_needs_to_be_heard(vicuna_spec: ModelSpec) -> None:
    timeline = _timeline(vicuna_spec)
    for need in (Need(), Need(fps=1.0, audio=False)):
        _index(timeline, need, vicuna_spec)
    assert not is_covered(timeline, Need(span=Span(10.0, 50.0)), vicuna_spec)
