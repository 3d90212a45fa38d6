from __future__ import annotations

import math
import threading
from collections.abc import Callable
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllama.runtime.memory import (
    Memory,
    MemoryFrames,
    extended_positions,
    fragment_size,
    position_count,
)

Golden = dict[str, np.ndarray]
# The note's rules once more, plainly: (float64 features, number of the first frame, number of the last one).
Kept = tuple[np.ndarray, int, int]


def slow_similarity(a: np.ndarray, b: np.ndarray) -> float:
    total = 0.0
    for token in a:
        for other in b:
            total += float(np.dot(token, other))
    return total / (len(a) * len(b))


def slow_merge(frames: list[Kept], kept: int) -> list[Kept]:
    frames = list(frames)
    while len(frames) > kept:
        best, place = -math.inf, 0
        for i in range(len(frames) - 1):
            similarity = slow_similarity(frames[i][0], frames[i + 1][0])
            if similarity > best:
                best, place = similarity, i
        left, right = frames[place], frames[place + 1]
        frames = [*frames[:place], ((left[0] + right[0]) / 2, left[1], right[2]), *frames[place + 2 :]]
    return frames


def slow_fragments(frames: list[Kept], fragment: int, kept: int, limit: int) -> tuple[list[list[Kept]], list[Kept]]:
    """The merged fragments, and the frames of the one that is not complete."""
    long: list[list[Kept]] = []
    while len(frames) >= fragment:
        long = slow_fit([*long, slow_merge(frames[:fragment], kept)], limit)
        frames = frames[fragment:]
    return long, frames


def slow_fit(long: list[list[Kept]], limit: int) -> list[list[Kept]]:
    """Where there are too many, the neighbouring fragments that stand for the fewest pictures become one."""
    while len([*chain(*long)]) > limit:
        best, place = math.inf, 0
        for i in range(len(long) - 1):
            pictures = long[i + 1][-1][2] - long[i][0][1] + 1
            if pictures < best:
                best, place = pictures, i
        both = slow_merge([*long[place], *long[place + 1]], max(len(long[place]), len(long[place + 1])))
        long = [*long[:place], both, *long[place + 2 :]]
    return long


def slow_whole(features: np.ndarray, fragment: int, kept: int, limit: int) -> list[Kept]:
    long, rest = slow_fragments(numbered(features), fragment, kept, limit)
    return [*chain(*slow_fit([*long, slow_merge(rest, kept)] if rest else long, limit))]


def slow_moment(features: np.ndarray, fragment: int, kept: int, limit: int, short: int) -> list[Kept]:
    """For a video that ends with the frame in question."""
    frames = numbered(features)
    older, recent = frames[: -short - 1], frames[-short - 1 :]
    long, rest = slow_fragments(older, fragment, kept, limit)
    return [*slow_merge([*chain(*long), *slow_merge(rest, kept)], limit - len(recent)), *recent]


def numbered(features: np.ndarray) -> list[Kept]:
    return [(frame.astype(np.float64), i, i) for i, frame in enumerate(features)]


def same(found: MemoryFrames, wanted: list[Kept], count: int) -> None:
    """Frames came at 0, 0.5, 1 ... seconds."""
    assert found.features.dtype == np.float32
    assert found.features.flags.c_contiguous
    assert len(found.features) == len(found.times) == len(wanted)
    ends = [min((last + 1) / 2, (count - 1) / 2) for _, _, last in wanted]
    assert found.times == tuple((first / 2, end) for (_, first, _), end in zip(wanted, ends, strict=True))
    np.testing.assert_allclose(found.features, np.stack([frame for frame, _, _ in wanted]), atol=2e-5)


def reached(found: MemoryFrames) -> float:
    """Seconds from 0 that are stood for without a gap."""
    end = 0.0
    for start, stop in found.times:
        assert start <= end, (start, end)
        end = max(end, stop)
    return end


def filled(features: np.ndarray, memory: Memory) -> Memory:
    for i, frame in enumerate(features):
        memory.add(i / 2, frame)
    return memory


def random_frames(count: int, seed: int = 0, tokens: int = 3, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, tokens, width)).astype(np.float32)


@pytest.fixture(scope="module")
def recorded(golden: Callable[..., Golden]) -> np.ndarray:
    """Features the original made of eight pictures, as a film of 300 with noise."""
    features = golden("stages_video")["image_qformer_out"]
    order = np.sort(np.random.default_rng(1).integers(0, len(features), 300))
    noise = 0.05 * np.random.default_rng(2).standard_normal((300, *features.shape[1:]))
    return (features[order] + noise).astype(np.float32)


@pytest.mark.parametrize(("fragment", "limit"), [(8, 256), (8, 40), (2, 64)])
def test_recorded_features_are_merged_as_the_rules_say(recorded: np.ndarray, fragment: int, limit: int) -> None:
    memory = filled(recorded, Memory(limit, fragment=fragment))
    same(memory.frames(), slow_whole(recorded, fragment, 2, limit), 300)
    same(memory.frames_now(), slow_moment(recorded, fragment, 2, limit, 18), 300)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_size_is_merged_as_the_rules_say(data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, 3), "kept")
    fragment = data.draw(st.integers(kept, 9), "fragment")
    short = data.draw(st.integers(2, 6), "short")
    limit = data.draw(st.integers(short + 1 + kept, 24), "limit")
    count = data.draw(st.integers(3, 70), "count")
    features = random_frames(count, data.draw(st.integers(0, 99), "seed"))
    memory = filled(features, Memory(limit, num_frames=2, short=short, fragment=fragment, kept=kept))
    same(memory.frames(), slow_whole(features, fragment, kept, limit), count)
    same(memory.frames_now(), slow_moment(features, fragment, kept, limit, short), count)


def test_a_fragment_of_one_picture_that_becomes_one_with_its_neighbour_costs_it_no_frame() -> None:
    features = random_frames(12 * 8 + 1)
    found = filled(features, Memory(24)).frames()
    assert len(found.times) == 24
    same(found, slow_whole(features, 8, 2, 24), len(features))


def test_of_equal_neighbours_the_first_are_merged() -> None:
    features = np.ones((40, 1, 2), np.float32)
    memory = filled(features, Memory(24))
    same(memory.frames(), slow_whole(features, 8, 2, 24), 40)
    same(memory.frames_now(), slow_moment(features, 8, 2, 24, 18), 40)


def test_frame_by_frame_is_the_same_as_at_once() -> None:
    features = random_frames(500)
    times = [i / 2 for i in range(500)]
    at_once = Memory.over(times, features, 64, num_frames=9)
    by_frame = Memory(64, num_frames=9, fragment=fragment_size(500, 64))
    for number, (time, frame) in enumerate(zip(times, features, strict=True), 1):
        by_frame.add(time, frame)
        if number % 50 == 0:  # asking changes nothing
            by_frame.frames()
            by_frame.frames_now()
    assert at_once.frames().times == by_frame.frames().times
    np.testing.assert_array_equal(at_once.frames().features, by_frame.frames().features)
    np.testing.assert_array_equal(at_once.frames_now().features, by_frame.frames_now().features)


@pytest.mark.parametrize("count", [1, 5, 8])
def test_eight_frames_or_fewer_are_left_as_they_are(count: int) -> None:
    features = random_frames(count)
    times = [i / 2 for i in range(count)]
    memory = Memory(256)
    for time, frame in zip(times, features, strict=True):
        memory.add(time, frame)
    expected = tuple(zip(times, [*times[1:], times[-1]], strict=True))
    for found in (memory.frames(), memory.frames_now(), Memory.over(times, features, 256).frames()):
        np.testing.assert_array_equal(found.features, features)
    assert memory.frames().times == memory.frames_now().times == expected


def test_empty_memory_shows_nothing() -> None:
    assert Memory(256).frames().times == Memory(256).frames_now().times == ()
    assert len(Memory.over([], [], 256)) == 0


def test_what_fits_is_not_merged() -> None:
    features = random_frames(200)
    found = Memory.over(range(200), features, 256).frames()
    np.testing.assert_array_equal(found.features, features)


@pytest.mark.parametrize("count", [9, 19, 20, 40, 64])
def test_moment_shows_nothing_twice(count: int) -> None:
    features = random_frames(count)
    found = Memory.over(range(count), features, 64).frames_now()
    np.testing.assert_array_equal(found.features, features)
    assert [start for start, _ in found.times] == list(range(count))


@pytest.mark.parametrize(("count", "size"), [(0, 2), (8, 2), (256, 2), (257, 3), (1024, 8), (1025, 9), (10_800, 85)])
def test_fragments_are_as_small_as_fits(count: int, size: int) -> None:
    assert fragment_size(count, 256) == size
    assert math.ceil(count / size) * 2 <= 256


def test_published_size_gives_published_count() -> None:
    memory = filled(random_frames(1024, tokens=1, width=2), Memory(256))
    assert len(memory.frames().times) == 256
    published = memory.frames().times
    for i in range(8):
        memory.add(512.0 + i / 2, np.ones((1, 2), np.float32))
    assert len(memory.frames().times) == 256
    assert memory.frames().times[2:253] == published[4:255]  # the two oldest fragments became one


def test_long_stream_is_remembered_at_even_resolution() -> None:
    memory = filled(random_frames(5000, tokens=1, width=2), Memory(64))
    times = memory.frames().times
    fragments = [stop - start for (start, _), (_, stop) in zip(times[::2], times[1::2], strict=True)]
    assert max(fragments) <= 3 * min(fragments[:-2])  # the newest are still to grow


@pytest.mark.parametrize("limit", [22, 31, 64])
def test_a_stream_of_any_length_fits_and_has_no_gaps(limit: int) -> None:
    memory = Memory(limit, fragment=2)
    for i, frame in enumerate(random_frames(700, tokens=1, width=4)):
        memory.add(i * 0.04, frame)
        for found in (memory.frames(), memory.frames_now()) if i % 7 == 0 else ():
            assert len(found.times) <= limit, i
            assert reached(found) == i * 0.04, i
    times = memory.frames().times
    assert [start for start, _ in times[1:]] == [end for _, end in times[:-1]]
    assert (times[0][0], times[-1][1]) == (0.0, 699 * 0.04)


def test_questions_while_a_camera_runs_see_all_up_to_then() -> None:
    memory = Memory(24, fragment=2)
    features = random_frames(3000, tokens=1, width=2)
    writer = threading.Thread(target=filled, args=(features, memory))
    writer.start()
    seen = 0.0
    while writer.is_alive():
        for found in (memory.frames(), memory.frames_now()):
            assert len(found.times) <= 24
            assert reached(found) >= seen
            seen = reached(found)
    writer.join()
    assert reached(memory.frames()) == 2999 / 2


def test_float16_features_are_merged_in_float32() -> None:
    features = random_frames(300).astype(np.float16)
    memory = filled(features, Memory(64))
    same(memory.frames(), slow_whole(features, 8, 2, 64), 300)
    assert features.dtype == np.float16


def test_features_given_are_not_written_to() -> None:
    features = random_frames(300)
    before = features.copy()
    filled(features, Memory(24)).frames_now()
    np.testing.assert_array_equal(features, before)


@pytest.mark.parametrize(("table_rows", "rows", "count"), [(32, 16, 256), (32, 32, 1024), (8, 16, 64), (5, 3, 9)])
def test_positions_are_those_of_the_formula(table_rows: int, rows: int, count: int) -> None:
    table = np.random.default_rng(0).standard_normal((table_rows, 6)).astype(np.float32)
    assert position_count(table_rows, rows) == count
    found = extended_positions(table, count, rows)
    assert found.shape == (count, 6)
    assert found.dtype == np.float32
    used, alpha = min(rows, table_rows), 0.01
    for i in range(used):
        for j in range(used):
            u_i = (table[i].astype(float) - alpha * table[0]) / (1 - alpha)
            u_j = (table[j].astype(float) - alpha * table[0]) / (1 - alpha)
            np.testing.assert_allclose(
                found[i * used + j], alpha * u_i + (1 - alpha) * u_j, atol=1e-6, err_msg=f"{i} {j}"
            )


def test_first_positions_are_the_rows_of_the_table() -> None:
    table = np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32)
    for count in (0, 1, 8, 16):
        np.testing.assert_array_equal(extended_positions(table, count), table[:count])
    np.testing.assert_array_equal(extended_positions(table, 256)[:16], table[:16])
    table[0] *= 1e15  # of which sums and differences would leave their rounding
    np.testing.assert_array_equal(extended_positions(table, 256)[:16], table[:16])
    np.testing.assert_array_equal(extended_positions(table, 100), extended_positions(table, 256)[:100])


def test_float16_features_are_compared_more_finely_than_they_are_kept() -> None:
    features = np.ones((9, 2, 1), np.float16)
    features[2::3, 1] = 1.001  # of each three the last two are most alike, by less than a float16 can tell
    memory = Memory(64, fragment=3)
    for second, frame in enumerate(features):
        memory.add(float(second), frame)
    assert [start for start, _ in memory.frames().times] == [0.0, 1.0, 3.0, 4.0, 6.0, 7.0]
