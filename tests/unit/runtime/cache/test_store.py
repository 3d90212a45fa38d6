from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import needs_links
from vllama.runtime import lock
from vllama.runtime.cache.catalogue import find_entries, list_entries, remove_entry, remove_traces
from vllama.runtime.cache.content import Content, remember
from vllama.runtime.cache.saved import ABOUT, SCHEMA, About, Saved
from vllama.runtime.cache.store import LOCK, MOST_SMALL, Store
from vllama.runtime.chunk import Chunk
from vllama.runtime.errors import DiskFullError, FileError, SpecError
from vllama.runtime.lock import locked
from vllama.runtime.timeline import ClipFeature, FrameFeature, Timeline

_CONTENT, _MODEL = "c" * 64, "m" * 64


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def store() -> Store:
    return Store.of(_CONTENT, _MODEL)


def _frames(*indices: int) -> list[FrameFeature]:
    return [FrameFeature(i, i / 10, np.full((2, 3), i, np.float16)) for i in indices]


def _clip(start: float) -> ClipFeature:
    return ClipFeature(start, start + 2.0, np.full(4, start, np.float16))


def _about(**changes: object) -> About:
    about = About(
        schema=SCHEMA, model=_MODEL, content=_CONTENT, kind="video", length=100, duration=10.0, frame_rate=10.0,
        sound=True, samples=160_000, fps=1.0, listened=True, wanted_fps=1.0, frames=0, clips=0, model_name="tiny",
        path=os.path.realpath("/clips/kitchen.mp4"), file_bytes=1, mtime_ns=2,
    )  # fmt: skip
    return replace(about, **changes)  # type: ignore[arg-type]


def _filled(saved: Saved) -> Timeline:
    timeline = Timeline(_MODEL, _CONTENT, "video", 100, 10.0, 10.0, sound=True)
    saved.fill(timeline)
    return timeline


def _held(store: Store) -> list[tuple[int, bytes]]:
    return [(frame.index, frame.features.tobytes()) for frame in _filled(store.read()).frames_in()]


def _three_chunks(store: Store) -> None:
    with store.writing(lambda process: False):
        store.describe(_about())
        for first in (0, 30, 60):
            store.append(_frames(first, first + 10), [_clip(first / 10)], [])
        store.append([], [], [_clip(0.0), _clip(0.0)])


def test_what_was_appended_is_there_again(store: Store) -> None:
    _three_chunks(store)
    saved = store.read()
    timeline = _filled(saved)
    assert saved.is_whole
    assert (saved.frames, saved.clips) == (6, 5)
    assert [frame.index for frame in timeline.frames_in()] == [0, 10, 30, 40, 60, 70]
    np.testing.assert_array_equal(timeline.frames_in()[3].features, np.full((2, 3), 40, np.float16))
    assert [clip.start for clip in timeline.choose_clips(2, 2.0)] == [0.0, 0.0]
    assert timeline.has_clip(3.0)


def test_appended_features_come_back_mapped_and_equal(store: Store) -> None:
    with store.writing(lambda process: False):
        frames, clips, whole, _ = store.append(_frames(1, 2), [], [_clip(0.0)])
    assert [frame.features.tobytes() for frame in frames] == [frame.features.tobytes() for frame in _frames(1, 2)]
    assert isinstance(frames[0].features.base, np.ndarray)
    assert not frames[0].features.flags.writeable
    assert (clips, len(whole)) == ([], 1)


def test_many_chunks_become_one_with_the_same_features(store: Store) -> None:
    _three_chunks(store)
    before = _held(store)
    with store.writing(lambda process: False):
        store.compact(8)
        assert len(store.read().chunks) == 4
        store.compact(1)
    assert len(store.read().chunks) == 1
    assert _held(store) == before
    assert len(_filled(store.read()).whole_clips) == 2


class _Crash(BaseException):
    pass


@pytest.mark.parametrize("system_call", [(os, "replace"), (os, "fsync"), (Path, "unlink")])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_crash_at_any_step_of_merging_loses_and_doubles_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, system_call: tuple[object, str], number: int
) -> None:
    _three_chunks(store)
    before = _held(store)
    real: Callable[..., object] = getattr(*system_call)
    calls = 0

    def crash(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number:
            raise _Crash
        return real(*arguments, **options)

    monkeypatch.setattr(*system_call, crash)
    crashed = False
    try:
        with store.writing(lambda process: False):
            store.compact(1)
    except _Crash:
        crashed = True
    monkeypatch.undo()
    assert crashed == (calls >= number)
    monkeypatch.setenv("VLLAMA_CACHE", str(store.folder.parents[1]))
    assert _held(store) == before
    assert (store.read().frames, store.read().clips) == (6, 5)
    with store.writing(lambda process: False):
        store.clean(store.read())
        store.compact(1)
    assert sorted(path.suffix for path in store.folder.iterdir()) == ["", ".json", ".safetensors"]
    assert _held(store) == before


def _as(index: int, of: int, *, equal: bool = False) -> FrameFeature:
    return FrameFeature(index, index / 10, np.full((2, 3), of, np.float16), of=of, equal=equal)


def test_pictures_that_show_nothing_new_share_the_features_on_disk_and_in_memory(store: Store) -> None:
    with store.writing(lambda process: False):
        store.append([*_frames(0), _as(1, 0), *_frames(2)], [], [])
        store.append([_as(3, 2), _as(4, 2, equal=True)], [], [])
        store.compact(1)
    saved = store.read()
    assert (saved.frames, saved.shared, saved.broken) == (5, 3, ())
    (chunk,) = saved.chunks
    assert chunk.parts["frame_features"].shape == (2, 2, 3)
    frames = _filled(saved).frames_in()
    assert [(frame.index, frame.of, frame.equal) for frame in frames] == [
        (0, None, True), (1, 0, False), (2, None, True), (3, 2, False), (4, 2, True),
    ]  # fmt: skip
    assert [frame.time for frame in frames] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert frames[0].features is frames[1].features
    assert frames[2].features is frames[3].features is frames[4].features
    assert [entry.shared for entry in list_entries()] == [0]  # without a description nothing is known of it


@pytest.mark.parametrize("first", [True, False])
def test_picture_that_was_encoded_itself_is_taken_whichever_file_comes_first(store: Store, first: bool) -> None:
    with store.writing(lambda process: False):
        store.append(_frames(0), [], [])
        for encoded in (first, not first):
            store.append(_frames(1) if encoded else [_as(1, 0)], [], [])
    frames = _filled(store.read()).frames_in()
    assert [(frame.index, frame.of, frame.features[0, 0]) for frame in frames] == [(0, None, 0), (1, None, 1)]
    assert (store.read().frames, store.read().shared) == (2, 0)


def test_picture_has_the_features_it_was_given_last(store: Store) -> None:
    with store.writing(lambda process: False):
        store.append([*_frames(0, 5), _as(10, 0)], [], [])
        store.append([_as(10, 5, equal=True)], [], [])
    assert [(frame.index, frame.of) for frame in _filled(store.read()).frames_in()] == [(0, None), (5, None), (10, 5)]


def test_picture_whose_features_are_gone_is_missing(store: Store) -> None:
    with store.writing(lambda process: False):
        store.append(_frames(0), [], [])
        store.append([_as(1, 0), *_frames(2)], [], [])
    assert store.read().frames == 3
    store.read().chunks[0].path.unlink()
    assert store.read().frames == 1
    assert [index for index, _ in _held(store)] == [2]


def _damage(chunk: Chunk, name: str, row: int) -> None:
    part = chunk.parts[name]
    with chunk.path.open("r+b") as file:
        file.seek(part.offset + row * (part.size // part.shape[0]) + 3)
        file.write(b"\x7f")


def test_damaged_features_are_left_out_and_cost_only_themselves(store: Store) -> None:
    with store.writing(lambda process: False):
        store.describe(_about())
        store.append([*_frames(0, 10, 20), _as(30, 20)], [_clip(1.0), _clip(3.0)], [])
        (chunk,) = store.read().chunks
        _damage(chunk, "frame_features", 1)
        _damage(chunk, "clip_features", 0)
        assert store.read().is_whole  # so far as can be told without reading the features
        assert [count for _, count in store.read().damaged()] == [2]
        assert [index for index, _ in _held(store)] == [0, 20, 30]
        store.repair(store.read().chunks[0])
        saved = store.read()
    assert (saved.damaged(), saved.broken, saved.frames, saved.clips) == ([], (), 3, 1)
    assert [frame.of for frame in _filled(saved).frames_in()] == [None, None, 20]
    assert _filled(saved).has_clip(3.0)
    assert len(saved.chunks) == 1


def test_stretches_of_the_whole_clip_rule_are_all_of_use_or_none(store: Store) -> None:
    with store.writing(lambda process: False):
        store.append([], [_clip(5.0)], [_clip(0.0), _clip(1.0)])
        (chunk,) = store.read().chunks
        _damage(chunk, "clip_features", 2)
        timeline = _filled(store.read())
        assert (timeline.whole_clips, timeline.has_clip(5.0)) == ((), True)
        store.repair(chunk)
    assert (store.read().clips, store.read().damaged()) == (1, [])


def test_chunk_in_which_all_is_damaged_is_removed(store: Store) -> None:
    with store.writing(lambda process: False):
        store.append(_frames(7), [], [])
        _damage(store.read().chunks[0], "frame_features", 0)
        store.repair(store.read().chunks[0])
    saved = store.read()
    assert (saved.frames, saved.damaged(), saved.leftover) == (0, [], ())
    assert saved.chunks == () or sys.platform == "win32"  # where an empty one stands for what was mapped


def test_torn_chunk_is_told_and_the_others_are_kept(store: Store) -> None:
    _three_chunks(store)
    torn = store.read().chunks[2].path
    os.truncate(torn, torn.stat().st_size - 1)
    saved = store.read()
    assert [(path, "bytes of" in why) for path, why in saved.broken] == [(torn, True)]
    assert not saved.is_whole
    assert [frame.index for frame in _filled(saved).frames_in()] == [0, 10, 30, 40]
    assert torn.exists()
    with store.writing(lambda process: False):
        store.clean(saved)
    assert not torn.exists()


def test_chunk_of_another_clip_or_model_is_told(store: Store) -> None:
    _three_chunks(store)
    for name, other in (("content", Store.of("d" * 64, _MODEL)), ("model", Store.of(_CONTENT, "n" * 64))):
        with other.writing(lambda process: False):
            other.append(_frames(99), [], [])
        shutil.copy(other.folder / "000001.safetensors", store.folder / f"900000-{name}.safetensors")
    assert [why for _, why in store.read().broken] == ["is of another content", "is of another model"]
    assert 99 not in [index for index, _ in _held(store)]


def test_chunk_of_other_shape_is_told(store: Store) -> None:
    _three_chunks(store)
    with store.writing(lambda process: False):
        store.append([FrameFeature(5, 0.5, np.zeros((2, 4), np.float16))], [], [])
    assert [why for _, why in store.read().broken] == ["has features of another form"]


def test_chunk_that_was_deleted_is_missed(store: Store) -> None:
    _three_chunks(store)
    with store.writing(lambda process: False):
        store.describe(_about(frames=6, clips=5))
    assert store.read().is_whole
    store.read().chunks[0].path.unlink()
    assert not store.read().is_whole
    assert [entry.state for entry in list_entries()] == ["broken: files of features are missing"]


def test_chunk_of_sound_that_was_deleted_is_missed(store: Store) -> None:
    _three_chunks(store)
    with store.writing(lambda process: False):
        store.describe(_about(frames=6, clips=5))
    store.read().chunks[3].path.unlink()
    assert (store.read().frames, store.read().is_whole) == (6, False)


def test_description_of_another_timeline_or_version_is_told(store: Store) -> None:
    _three_chunks(store)
    for wrong, why in (
        (_about(content="d" * 64), "is of another timeline"),
        (_about(model="n" * 64), "is of another timeline"),
        (_about(schema=SCHEMA - 1), f"was made by another version (schema {SCHEMA - 1})"),
        (_about(schema=SCHEMA + 1), f"was made by another version (schema {SCHEMA + 1})"),
    ):
        store.describe(wrong)
        saved = store.read()
        assert (saved.about, saved.broken) == (None, ((store.folder / ABOUT, why),))


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": 1}', "\x00"])
def test_damaged_description_costs_only_itself(store: Store, text: str) -> None:
    _three_chunks(store)
    (store.folder / ABOUT).write_text(text)
    saved = store.read()
    assert saved.about is None
    assert [path.name for path, _ in saved.broken] == [ABOUT]
    assert saved.frames == 6


def test_written_since_the_beginning_can_be_undone(store: Store) -> None:
    _three_chunks(store)
    with store.writing(lambda process: False):
        store.append(_frames(99), [], [])
        store.undo()
    assert [index for index, _ in _held(store)] == [0, 10, 30, 40, 60, 70]


def test_what_was_undone_is_not_looked_for_again(store: Store) -> None:
    with store.writing(lambda process: False):
        store.append(_frames(1), [], [])
        store.undo()
        store.append(_frames(2), [], [])
        assert store.settle() is None
    assert [index for index, _ in _held(store)] == [2]


def test_what_another_writer_added_meanwhile_is_not_written_over(store: Store) -> None:
    for number, each in enumerate((store, Store.of(_CONTENT, _MODEL), store)):
        with each.writing(lambda process: False):
            each.append(_frames(number), [], [])
    assert [index for index, _ in _held(store)] == [0, 1, 2]


def test_one_writes_at_a_time(store: Store) -> None:
    asked: list[int] = []

    def wait(process: int) -> bool:
        asked.append(process)
        return False

    with store.writing(wait) as first, store.writing(wait) as second:
        assert (first, second) == (True, False)
    assert asked == [os.getpid()]
    with store.writing(wait) as again:
        assert again


def test_full_disk_is_told_as_such(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with store.writing(lambda process: False):
        store.append(_frames(1), [], [])
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DiskFullError, match="no space left"):
            store.append(_frames(2), [], [])
    assert [index for index, _ in _held(store)] == [1]
    assert not list(store.folder.glob("*.part"))


def test_saved_timelines_are_listed_found_and_deleted(store: Store, tmp_path: Path) -> None:
    _three_chunks(store)
    (tmp_path / "cache" / "timelines" / "old.safetensors").write_bytes(b"old")
    (tmp_path / "cache" / "timelines" / "empty").mkdir()
    entries = {entry.id: entry for entry in list_entries()}
    mine = entries[store.folder.name]
    assert (mine.frames, mine.clips, mine.chunks, mine.state, mine.source) == (6, 5, 4, "indexed", "gone")
    assert all(entries[name].state.startswith("broken: ") for name in ("old.safetensors", "empty"))
    assert find_entries("cccc") == find_entries(store.folder.name) == find_entries("/clips/kitchen.mp4") == [mine]
    with pytest.raises(SpecError, match="index ls"):
        find_entries("ccd")
    with store.writing(lambda process: False), pytest.raises(FileError, match="is being indexed"):
        remove_entry(mine)
    for entry in entries.values():
        remove_entry(entry)
    assert list_entries() == []


def test_what_is_kept_beside_a_timeline_goes_with_it_or_neither(store: Store, tmp_path: Path) -> None:
    _three_chunks(store)
    contents, prefixes = tmp_path / "cache" / "contents", tmp_path / "cache" / "prefixes"
    record = {"path": "/clips/kitchen.mp4", "bytes": 1, "mtime_ns": 2}
    for folder in (contents, prefixes):
        folder.mkdir()
    for name, content in (("mine", _CONTENT), ("copy", _CONTENT), ("other", "d" * 64)):
        (contents / f"{name}.json").write_text(json.dumps({**record, "sha256": content}))
    mine = f"{_CONTENT[:32]}-1.safetensors"
    for name in (mine, f"{mine}.1.part", f"{'d' * 32}-1.safetensors"):
        (prefixes / name).touch()
    stuck = prefixes / f"{_CONTENT[:32]}-2.safetensors"
    stuck.mkdir()
    (entry,) = list_entries()
    with pytest.raises(FileError, match=re.escape(f"{stuck}: cannot be deleted (")):
        remove_entry(entry)
    assert list_entries() == [entry]
    stuck.rmdir()
    remove_entry(entry)
    assert [path.name for path in (*contents.iterdir(), *prefixes.iterdir())] == [
        "other.json", f"{'d' * 32}-1.safetensors",
    ]  # fmt: skip
    remove_traces()
    assert [*contents.iterdir(), *prefixes.iterdir()] == []


def test_unfinished_timeline_is_listed_as_such(store: Store) -> None:
    with store.writing(lambda process: False):
        store.describe(_about(fps=0.0, wanted_fps=1.0))
    assert [entry.state for entry in list_entries()] == ["unfinished"]
    with store.writing(lambda process: False):
        store.describe(_about(fps=0.0, wanted_fps=0.0))
    assert [entry.state for entry in list_entries()] == ["asked about"]


@pytest.mark.skipif(sys.platform == "win32", reason="what is open cannot be removed there")
def test_lock_of_a_deleted_folder_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    with locked(tmp_path / LOCK, lambda process: False) as first:
        (tmp_path / LOCK).unlink()
        with locked(tmp_path / LOCK, lambda process: False) as second:
            assert (first, second) == (True, True)
            with locked(tmp_path / LOCK, lambda process: False) as third:
                assert not third


@contextmanager
def _few_files(more: int) -> Iterator[None]:
    """As if `ulimit -n` allowed only so many more than are open."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(os.devnull, os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_files_that_cannot_be_opened_now_are_said_and_not_given_up(store: Store) -> None:
    with store.writing(lambda process: False):
        store.describe(_about())
        for index in range(40):
            store.append(_frames(index), [], [])
    with _few_files(20):
        with pytest.raises(FileError, match=r"cannot be read .*ulimit -n"):
            store.read()
        (entry,) = list_entries()
        assert "ulimit -n" in entry.problem
    with _few_files(0), pytest.raises(FileError, match="ulimit -n"):
        store.read()
    saved = store.read()
    assert (saved.broken, saved.frames) == ((), 40)
    assert saved.about is not None


def test_description_that_cannot_be_opened_now_is_not_given_up(store: Store) -> None:
    with store.writing(lambda process: False):
        store.describe(_about())
    with _few_files(1):  # for the list of the files, and not for one of them beside it
        held = os.open(os.devnull, os.O_RDONLY)
        try:
            with pytest.raises(FileError, match="ulimit -n"):
                store.read()
        finally:
            os.close(held)
    assert store.read().broken == ()


def test_too_many_open_files_is_told_as_such_when_writing(store: Store) -> None:
    said = pytest.raises(
        FileError, match=f"{re.escape(str(store.folder))}: Too many open files; allow more open files with `ulimit -n`"
    )
    with store.writing(lambda process: False), _few_files(0), said:
        store.append(_frames(1), [], [])


def test_many_small_chunks_are_merged_while_more_are_written_and_can_still_be_undone(store: Store) -> None:
    with store.writing(lambda process: False):
        store.append(_frames(999), [], [])
    before = _held(store)
    with store.writing(lambda process: False):
        for index in range(3 * MOST_SMALL):
            written = store.append([*_frames(2 * index), _as(2 * index + 1, 2 * index)], [_clip(float(index))], [])
            settled = store.settle()
            assert len(store.read().chunks) <= MOST_SMALL
            if settled is not None:
                assert settled.frames[-1].features.tobytes() == written.frames[0].features.tobytes()
                assert [shared.index for shared in settled.shared] == list(range(1, 2 * index + 2, 2))
        saved = store.read()
        assert (saved.frames, saved.shared, saved.clips) == (6 * MOST_SMALL + 1, 3 * MOST_SMALL, 3 * MOST_SMALL)
        assert len(saved.leftover) <= (1 if sys.platform == "win32" else 0)  # where what is still used stays
        store.undo()
    assert _held(store) == before


@contextmanager
def _mapped_files_stay(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on Windows, where a file that is mapped cannot be removed."""
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".safetensors" and path.exists():
            raise PermissionError(13, "The process cannot access the file", str(path))
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        yield


def _cleaned(store: Store) -> Saved:
    with store.writing(lambda process: False):
        store.clean(store.read())
    saved = store.read()
    assert (saved.leftover, saved.broken) == ((), ())
    return saved


@pytest.mark.parametrize("is_cleaned", [True, False])
def test_merged_file_that_could_not_be_removed_does_not_come_back(
    store: Store, monkeypatch: pytest.MonkeyPatch, is_cleaned: bool
) -> None:
    with store.writing(lambda process: False):
        for index in (0, 1):
            store.append(_frames(index), [_clip(index)], [])
    with _mapped_files_stay(monkeypatch), store.writing(lambda process: False):
        store.compact(1)
    with _mapped_files_stay(monkeypatch), store.writing(lambda process: False):
        store.append(_frames(2), [], [])
        if is_cleaned:
            store.clean(store.read())
        store.compact(1)
    for number in (3, 4):  # the next process removes some of them, and is killed
        (store.folder / f"{number:06d}.safetensors").unlink()
    assert len(store.read().leftover) == 2
    assert (store.read().frames, store.read().clips, len(store.read().chunks)) == (3, 2, 1)
    assert (_cleaned(store).frames, len(list(store.folder.glob("*.safetensors")))) == (3, 1)


def test_undone_and_wholly_damaged_files_that_could_not_be_removed_do_not_count(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.writing(lambda process: False):
        store.append(_frames(0), [], [])
        store.append(_frames(1), [], [])
    _damage(store.read().chunks[1], "frame_features", 0)
    with _mapped_files_stay(monkeypatch), store.writing(lambda process: False):
        store.repair(store.read().chunks[1])
        assert store.read().damaged() == []
        for index in range(2 * MOST_SMALL):
            store.append(_frames(100 + index), [], [])
            store.settle()
        store.undo()
        assert [index for index, _ in _held(store)] == [0]
    assert [index for index, _ in _held(store)] == [0]
    assert _cleaned(store).frames == 1
    assert len(list(store.folder.glob("*.safetensors"))) <= 3  # two of them hold nothing


def test_partly_damaged_file_that_could_not_be_removed_does_not_count(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.writing(lambda process: False):
        store.append(_frames(0, 1), [], [])
    (chunk,) = store.read().chunks
    _damage(chunk, "frame_features", 0)
    with _mapped_files_stay(monkeypatch), store.writing(lambda process: False):
        store.repair(chunk)
    saved = store.read()
    assert (saved.frames, saved.damaged(), saved.leftover) == (1, [], (chunk.path,))


def test_merged_file_that_is_torn_is_left_over_and_not_missed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.writing(lambda process: False):
        store.append(_frames(0), [], [])
        store.append(_frames(1), [], [])
    torn = store.read().chunks[0].path
    with _mapped_files_stay(monkeypatch), store.writing(lambda process: False):
        store.compact(1)
    os.truncate(torn, 40)
    saved = store.read()
    assert (saved.frames, saved.broken) == (2, ())
    assert torn in saved.leftover


@pytest.mark.skipif(sys.platform == "win32", reason="what is listed cannot be removed there")
def test_timelines_are_listed_beside_one_that_is_written_and_one_that_is_removed(store: Store) -> None:
    with store.writing(lambda process: False):
        store.describe(_about())
    (store.folder / "gone").symlink_to("nowhere")
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            other = store.folder.with_name("other")
            other.mkdir()
            for number in range(30):
                (store.folder / f"{number}.part").touch()
                (other / f"{number}.part").touch()
            for number in range(30):
                (store.folder / f"{number}.part").unlink()
            shutil.rmtree(other)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(500):
            assert store.folder.name in [entry.id for entry in list_entries()]
    finally:
        done.set()
        writer.join()


def _maps(path: Path) -> bool:
    return f" {path}\n" in Path("/proc/self/maps").read_text()


@pytest.fixture
def mapped_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where a file that is mapped can be neither removed nor renamed."""
    if sys.platform != "linux":
        pytest.skip("needs /proc to tell what is mapped")

    def refusing(real: Callable[..., None]) -> Callable[..., None]:
        def call(path: Path, *arguments: object, **options: object) -> None:
            if _maps(path):
                raise PermissionError(13, "The process cannot access the file", str(path))
            real(path, *arguments, **options)

        return call

    monkeypatch.setattr(Path, "unlink", refusing(Path.unlink))
    monkeypatch.setattr(os, "replace", refusing(os.replace))


def test_merging_lets_go_of_what_it_removes(store: Store, mapped_stay: None) -> None:
    _three_chunks(store)
    with store.writing(lambda process: False):
        merged = store.compact(1)
        assert merged is not None
        assert len(list(store.folder.glob("*.safetensors"))) == 1
    assert [frame.index for frame in merged.frames] == [0, 10, 30, 40, 60, 70]
    assert (len(merged.clips), len(merged.whole)) == (3, 2)


def test_what_was_still_used_when_it_was_merged_is_removed_when_writing_ends(store: Store, mapped_stay: None) -> None:
    _three_chunks(store)
    with store.writing(lambda process: False):
        store.append([*_frames(80), _as(81, 80, equal=True)], [], [])
        timeline = _filled(store.read())
        store.compact(1)
        assert len(list(store.folder.glob("*.safetensors"))) == 6
        store.read().fill(timeline)
    assert len(list(store.folder.glob("*.safetensors"))) == 1


def test_timeline_that_is_used_is_deleted_wholly_or_not_at_all(store: Store, mapped_stay: None) -> None:
    _three_chunks(store)
    before = sorted(path.name for path in store.folder.iterdir())
    (entry,) = list_entries()
    used = store.append(_frames(99), [], [])
    with pytest.raises(FileError, match=r"cannot be deleted \(The process cannot access the file\); end what uses it"):
        remove_entry(entry)
    assert sorted(path.name for path in store.folder.iterdir()) == [*before[:-2], "000005.safetensors", *before[-2:]]
    assert store.read().is_whole
    del used
    remove_entry(entry)
    assert not store.folder.exists()


def test_half_a_file_is_not_in_the_way_of_deleting_a_timeline(store: Store) -> None:
    _three_chunks(store)
    (entry,) = list_entries()
    (store.folder / "about.json.part").touch()
    remove_entry(entry)
    assert not store.folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="what is open cannot be removed there")
def test_lock_that_was_removed_meanwhile_is_taken_anew_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = lock._take
    taken: list[int] = []

    def remove_once(handle: int) -> None:
        if not taken:
            (tmp_path / LOCK).unlink()
        taken.append(handle)
        take(handle)

    monkeypatch.setattr(lock, "_take", remove_once)
    asked: list[int] = []

    def ask(process: int) -> bool:
        asked.append(process)
        return False

    with locked(tmp_path / LOCK, ask) as held:
        assert held
        assert (tmp_path / LOCK).read_text() == str(os.getpid())
    assert (len(taken), asked) == (2, [])


def test_fewer_characters_than_four_name_no_timeline(store: Store) -> None:
    _three_chunks(store)
    with pytest.raises(SpecError, match="index ls"):
        find_entries("ccc")


def test_timeline_of_a_file_that_is_gone_is_found_from_its_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with store.writing(lambda process: False):
        store.describe(_about(path=os.path.realpath("kitchen.mp4")))
    assert [entry.id for entry in find_entries("kitchen.mp4")] == [store.folder.name]


def test_timeline_is_found_by_every_path_its_clip_had(store: Store, tmp_path: Path) -> None:
    with store.writing(lambda process: False):
        store.describe(_about())
    copy = tmp_path / "copy.mp4"
    copy.touch()
    remember(Content(copy, _CONTENT, 1, 2, 10**18))
    copy.unlink()
    assert [entry.id for entry in find_entries(str(copy))] == [store.folder.name]


@needs_links
def test_a_lock_that_leads_nowhere_is_said_and_not_tried_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllama.runtime.cache.store._PATIENCE_SECONDS", 0.1)
    store.folder.mkdir(parents=True)
    (store.folder / "lock").symlink_to(store.folder / "none" / "lock")
    with pytest.raises(FileError, match="No such file or directory; set VLLAMA_CACHE"), store.writing(lambda _: False):
        pytest.fail("it was locked")
