from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vllama.runtime.catalogue import find_entries, list_entries, remove_entry
from vllama.runtime.errors import DiskFullError, FileError, SpecError
from vllama.runtime.lock import locked
from vllama.runtime.saved import ABOUT, SCHEMA, About, Saved
from vllama.runtime.store import LOCK, Store
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
        path="/clips/kitchen.mp4", file_bytes=1, mtime_ns=2,
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
        frames, clips, whole = store.append(_frames(1, 2), [], [_clip(0.0)])
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
    assert _filled(store.read()).whole_clip_count == 2


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


def test_unfinished_timeline_is_listed_as_such(store: Store) -> None:
    with store.writing(lambda process: False):
        store.describe(_about(fps=0.0, wanted_fps=1.0))
    assert [entry.state for entry in list_entries()] == ["unfinished"]
    with store.writing(lambda process: False):
        store.describe(_about(fps=0.0, wanted_fps=0.0))
    assert [entry.state for entry in list_entries()] == ["asked about"]


def test_lock_of_a_deleted_folder_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    with locked(tmp_path / LOCK, lambda process: False) as first:
        (tmp_path / LOCK).unlink()
        with locked(tmp_path / LOCK, lambda process: False) as second:
            assert (first, second) == (True, True)
            with locked(tmp_path / LOCK, lambda process: False) as third:
                assert not third
