"""Indexing that is killed, interrupted, out of disk, or finds its files damaged: what is complete is kept."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import av
import numpy as np
import psutil
import pytest

from tests.conftest import KILLED, needs_ctrl_c
from vllama.runtime import (
    DecodeError,
    DiskFullError,
    Engine,
    FileError,
    MediaError,
    Span,
    SpecError,
    Timeline,
    indexing,
)
from vllama.runtime.cache import saver
from vllama.runtime.cache.catalogue import find_entries, list_entries, remove_entry
from vllama.runtime.cache.content import identify
from vllama.runtime.cache.saved import timeline_folder
from vllama.runtime.cache.store import MOST_SMALL, Store

Features = list[tuple[float, float, bytes]]


@pytest.fixture(scope="module")
def minute(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of moving stripes and of a rising tone, small."""
    return _minute(tmp_path_factory.mktemp("clips") / "minute.mp4")


def _minute(path: Path, seconds: int = 60) -> Path:
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", 5, options={"crf": "30", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", 16000, layout="mono")
        for index in range(5 * seconds):
            pixels = np.roll(np.arange(64, dtype=np.uint8) * 4, index)[None, :, None].repeat(48, 0).repeat(3, 2)
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")))
        container.mux(video.encode())
        times = np.arange(seconds * 16000) / 16000
        tone = (0.3 * np.sin(2 * np.pi * (200 + 10 * times) * times)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(tone[None], "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    os.utime(path, ns=(10**18, 10**18))
    return path


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Iterator[Engine]:
    with Engine.open(tiny_bundle, answers=False) as engine:
        yield engine


def _features(timeline: Timeline) -> tuple[Features, Features, Features]:
    """Pictures, the stretches of the whole-clip rule, and all stretches as spans of a few seconds choose them."""
    clips = {}
    for second in range(int(timeline.duration)):
        for clip in timeline.choose_clips(8, 2.0, Span(float(second), second + 3.0)):
            clips[clip.start] = (clip.start, clip.end, clip.features.tobytes())
    frames = [(float(frame.index), frame.time, frame.features.tobytes()) for frame in timeline.frames_in()]
    whole = [(clip.start, clip.end, clip.features.tobytes()) for clip in timeline.choose_clips(8, 2.0)]
    return frames, whole, sorted(clips.values())


@pytest.fixture(scope="module")
def uninterrupted(
    engine: Engine, minute: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Features, Features, Features]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLAMA_CACHE", str(tmp_path_factory.mktemp("cache")))
        timeline = engine.index(minute)
        assert (len(timeline.frames_in()), timeline.clip_count) >= (60, 60)
        return _features(timeline)


def _start(bundle: Path, clip: Path, cache: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vllama.cli", "index", str(clip), "--model", str(bundle), "-t", "1", *options],
        env={**os.environ, "VLLAMA_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for(what: Callable[[], object], process: subprocess.Popen[str] | None = None, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _chunks(cache: Path) -> list[Path]:
    return sorted(cache.glob("timelines/*/*.safetensors"))


def test_killed_ten_times_ends_as_if_never_killed(
    tiny_bundle: Path,
    engine: Engine,
    minute: Path,
    uninterrupted: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    process = _start(tiny_bundle, minute, tmp_path / "whole")
    _wait_for((tmp_path / "whole" / "timelines").exists, process)
    begun = time.monotonic()
    said = process.communicate()
    assert process.returncode == 0, said
    work = time.monotonic() - begun
    states: list[tuple[int, int, int]] = []
    while sum(code == KILLED for code, _, _ in states) < 10:
        assert len(states) < 40, (seed, states, work)
        cache = tmp_path / f"cache-{len(states)}"
        process = _start(tiny_bundle, minute, cache)
        _wait_for((cache / "timelines").exists, process)
        time.sleep(moments.random() * work)
        process.kill()
        process.communicate()
        monkeypatch.setenv("VLLAMA_CACHE", str(cache))
        kept = sum(entry.frames + entry.clips for entry in list_entries())
        timeline = engine.index(minute)
        states.append((process.returncode, kept, timeline.encoded))
        if process.returncode == 0:  # it was done before: the machine has got faster
            work *= 0.7
        assert _features(timeline) == uninterrupted, (seed, states)
        assert kept + timeline.encoded + timeline.shared == timeline.frame_count + timeline.clip_count, (seed, states)
        assert len(_chunks(cache)) == 1, (seed, states)
        assert not list(cache.glob("timelines/*/*.part"))
    assert len({kept for _, kept, _ in states}) > 1, (seed, states)  # so the moments did differ


def test_killed_again_and_again_on_one_cache_comes_to_an_end(
    tiny_bundle: Path, engine: Engine, minute: Path, uninterrupted: object, cache: Path
) -> None:
    for number in range(3):
        process = _start(tiny_bundle, minute, cache)
        _wait_for(lambda n=number: len(_chunks(cache)) > n, process)  # type: ignore[misc]
        process.kill()
        process.communicate()
    assert _features(engine.index(minute)) == uninterrupted


@needs_ctrl_c
def test_ctrl_c_keeps_what_is_complete_and_says_how_to_go_on(
    tiny_bundle: Path, engine: Engine, minute: Path, uninterrupted: object, cache: Path
) -> None:
    process = _start(tiny_bundle, minute, cache)
    _wait_for(lambda: _chunks(cache), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said
    (entry,) = list_entries()
    assert entry.state == "unfinished"
    assert entry.frames >= 32
    timeline = engine.index(minute)
    assert timeline.encoded == timeline.frame_count + timeline.clip_count - entry.frames - entry.clips
    assert _features(timeline) == uninterrupted


@pytest.mark.parametrize("damage", ["cut", "emptied", "overwritten"])
def test_torn_chunk_is_dropped_said_and_encoded_again(
    engine: Engine, minute: Path, uninterrupted: object, cache: Path, damage: str
) -> None:
    engine.index(minute, fps=0.0)
    engine.index(minute, fps=0.0, span=Span(10.0, 11.0))
    chunk = _chunks(cache)[-1]
    size = chunk.stat().st_size
    if damage == "overwritten":
        chunk.write_bytes(b"\x00" * size)
    else:
        os.truncate(chunk, size // 2 if damage == "cut" else 0)
    said: list[str] = []
    timeline = engine.index(minute, note=said.append)
    assert [str(chunk) in text and "dropped" in text for text in said] == [True]
    frames, whole, clips = _features(timeline)
    assert (frames, whole, clips) == uninterrupted
    said.clear()
    assert engine.index(minute, note=said.append).encoded == 0
    assert said == []


def test_indexed_clip_that_lost_a_chunk_is_completed(
    engine: Engine, minute: Path, uninterrupted: object, cache: Path
) -> None:
    engine.index(minute)
    _chunks(cache)[0].unlink()
    assert _features(engine.index(minute)) == uninterrupted


def test_chunk_of_another_clip_is_dropped_and_said(
    engine: Engine, minute: Path, uninterrupted: object, clip: Path, cache: Path
) -> None:
    engine.index(clip)
    (foreign,) = _chunks(cache)
    engine.index(minute, fps=0.0)
    (mine,) = (path.parent for path in _chunks(cache) if path.parent != foreign.parent)
    shutil.copy(foreign, mine / "000099.safetensors")
    said: list[str] = []
    assert _features(engine.index(minute, note=said.append)) == uninterrupted
    assert ["another content" in text for text in said] == [True]
    assert not (mine / "000099.safetensors").exists()


def test_full_disk_is_said_and_what_was_saved_is_kept(
    tiny_bundle: Path,
    engine: Engine,
    minute: Path,
    uninterrupted: object,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLLAMA_CACHE", str(small_disk / "cache"))
    engine.index(minute, fps=0.0)
    (small_disk / "other").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 4096 * 2))
    with pytest.raises(DiskFullError, match="no space left"):
        engine.index(minute, must_save=True)
    process = _start(tiny_bundle, minute, small_disk / "cache")
    _, said = process.communicate(timeout=120)
    assert (process.returncode, len(said.splitlines())) == (7, 1), said
    told: list[str] = []
    timeline = engine.index(minute, note=told.append)
    assert ["no space left" in text for text in told] == [True]
    assert not timeline.saved
    assert _features(timeline) == uninterrupted
    (small_disk / "other").unlink()
    timeline = engine.index(minute, note=told.append)
    assert len(told) == 1
    assert timeline.saved
    assert timeline.encoded < timeline.frame_count + timeline.clip_count
    assert _features(timeline) == uninterrupted


def test_cache_that_cannot_be_written_costs_only_the_saving(
    vllama: Callable[..., subprocess.CompletedProcess[str]],
    tiny_bundle: Path,
    engine: Engine,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = tmp_path / "file" / "cache"
    monkeypatch.setenv("VLLAMA_CACHE", str(cache))
    said: list[str] = []
    timeline = engine.index(clip, fps=0.0, note=said.append)
    assert (len(timeline.choose_frames(8)), timeline.saved) == (8, False)
    assert ["not saved" in text and "VLLAMA_CACHE" in text for text in said] == [True]
    with pytest.raises(FileError, match="VLLAMA_CACHE"):
        engine.index(clip, must_save=True)
    asked = vllama("ask", clip, "What?", "-n", 2, "--model", tiny_bundle, env={"VLLAMA_CACHE": str(cache)})
    assert (asked.returncode, "not saved" in asked.stderr) == (0, True)
    indexed = vllama("index", clip, "--model", tiny_bundle, env={"VLLAMA_CACHE": str(cache)})
    assert (indexed.returncode, len(indexed.stderr.splitlines())) == (3, 1)


def test_engine_that_only_indexes_has_no_conversations(engine: Engine, clip: Path, cache: Path) -> None:
    with pytest.raises(SpecError, match="answers=False"):
        engine.chat(engine.index(clip, fps=0.0))


def test_changed_file_is_another_clip(engine: Engine, cache: Path, tmp_path: Path) -> None:
    path = _minute(tmp_path / "clip.mp4", seconds=4)
    before = engine.index(path)
    _minute(path, seconds=6)
    after = engine.index(path)
    assert after.encoded > 0
    assert (before.content != after.content, before.length, after.length) == (True, 20, 30)
    assert sorted(entry.source for entry in list_entries()) == ["changed", "there"]


def test_file_that_changes_while_it_is_read_is_said_and_nothing_of_it_is_kept(
    engine: Engine, minute: Path, cache: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(minute, tmp_path / "growing.mp4"))

    def change(done: int, total: int) -> None:
        if done == 40:
            assert _chunks(cache)  # one was saved already
            os.utime(path, ns=(10**18, 10**18 + 1))

    with pytest.raises(MediaError, match="was changed while it was read"):
        engine.index(path, progress=change)
    assert sum(entry.frames + entry.clips for entry in list_entries()) == 0
    assert _chunks(cache) == [] or sys.platform == "win32"  # where an empty one stands for what is still mapped
    assert engine.index(path).saved


@pytest.fixture(params=["fails", "stopped"])
def nothing_comes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    """What every attempt to index ends in, before anything is encoded."""
    error = {"fails": DecodeError, "stopped": KeyboardInterrupt}[request.param]

    def end(*_: object) -> int:
        raise error

    monkeypatch.setattr(indexing, "count_samples" if request.param == "stopped" else "read_frames", end)
    return error


def _kept(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file() and path.parent.name != "verified"]


def test_clip_of_which_nothing_was_encoded_leaves_nothing(
    engine: Engine, minute: Path, cache: Path, nothing_comes: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(nothing_comes):
        engine.index(minute, must_save=True)
    assert (list_entries(), _kept(cache)) == ([], [])
    monkeypatch.undo()
    monkeypatch.setenv("VLLAMA_CACHE", str(cache))
    kept = engine.index(minute, fps=0.0)
    assert kept.saved


def test_prefix_that_another_process_is_keeping_stays(
    engine: Engine, minute: Path, cache: Path, nothing_comes: type[BaseException]
) -> None:
    part = cache / "prefixes" / f"{identify(minute).sha256[:32]}-0.safetensors.7.part"
    part.parent.mkdir(parents=True)
    part.touch()
    with pytest.raises(nothing_comes):
        engine.index(minute, must_save=True)
    assert part in _kept(cache)


def test_clip_of_which_something_is_kept_keeps_it_and_its_traces(
    engine: Engine, minute: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.index(minute, fps=0.0)
    before = _kept(cache)

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(indexing, "read_frames", end)
    with pytest.raises(KeyboardInterrupt):
        engine.index(minute)
    assert _kept(cache) == before
    other = timeline_folder(engine.index(minute, fps=0.0).content, "of another model")
    os.rename(list_entries()[0].folder, other)  # it is why the traces stay
    with pytest.raises(KeyboardInterrupt):
        engine.index(minute)
    assert [entry.folder for entry in list_entries()] == [other]
    assert [path.parent.name for path in _kept(cache) if path.parent != other] == ["contents"]


def test_who_waited_for_one_that_leaves_nothing_goes_on(engine: Engine, minute: Path, cache: Path) -> None:
    store = Store.of(identify(minute).sha256, engine.bundle.encoders_hash)
    said: SimpleQueue[str] = SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(KeyboardInterrupt), store.writing(lambda process: False) as held:  # noqa: PT012
            assert held
            waiting = pool.submit(engine.index, minute, fps=0.0, must_save=True, note=said.put)
            assert "waiting for that" in said.get(timeout=20)
            raise KeyboardInterrupt
        assert waiting.result().saved
    assert [entry.state for entry in list_entries()] == ["asked about"]


def test_what_a_killed_one_left_is_found_by_its_file_and_deleted(minute: Path, cache: Path, engine: Engine) -> None:
    folder = Store.of(identify(minute).sha256, engine.bundle.encoders_hash).folder
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    (entry,) = find_entries(str(minute))
    assert (entry.folder, entry.about) == (folder, None)
    remove_entry(entry)
    assert list_entries() == []


def test_two_processes_index_the_same_clip_one_after_the_other(
    tiny_bundle: Path, engine: Engine, minute: Path, uninterrupted: object, cache: Path
) -> None:
    first, second = (_start(tiny_bundle, minute, cache) for _ in range(2))
    outputs = [process.communicate(timeout=300) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    timeline = engine.index(minute)
    assert timeline.encoded == 0
    assert _features(timeline) == uninterrupted
    assert len(_chunks(cache)) == 1


def test_index_waits_for_the_one_at_work_and_a_question_does_not(
    engine: Engine, tiny_bundle: Path, minute: Path, uninterrupted: object, cache: Path
) -> None:
    process = _start(tiny_bundle, minute, cache)
    _wait_for(lambda: _chunks(cache), process)
    psutil.Process(process.pid).suspend()  # at work, for as long as we like
    said: list[str] = []
    asked = engine.index(minute, fps=0.0, span=Span(50.0, 51.0), note=said.append)
    assert len(asked.choose_frames(8, Span(50.0, 51.0))) >= 5
    assert not asked.saved
    assert [f"process {process.pid} is indexing it" in text for text in said] == [True]
    threading.Timer(1.0, psutil.Process(process.pid).resume).start()
    timeline = engine.index(minute, fps=0.0, must_save=True, note=said.append)  # an index, not a question
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert "waiting" in said[1]
    assert timeline.encoded == 0
    assert _features(timeline) == uninterrupted


def test_long_index_needs_few_open_files(
    engine: Engine, minute: Path, uninterrupted: object, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    engine.index(minute, fps=0.0)  # what is opened once is open
    monkeypatch.setattr(saver, "_CHUNK_FEATURES", 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(os.devnull, os.O_RDONLY)
    os.close(probe)
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe + 3 * MOST_SMALL, hard))
    try:
        timeline = engine.index(minute, must_save=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert timeline.encoded > 3 * MOST_SMALL
    assert (_features(timeline), timeline.saved) == (uninterrupted, True)
    assert engine.index(minute).encoded == 0
    assert len(_chunks(cache)) == 1


def test_damaged_feature_on_a_full_disk_costs_a_question_only_the_saving(
    engine: Engine, minute: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLAMA_CACHE", str(small_disk / "cache"))
    whole = _features(engine.index(minute, fps=0.0))
    (chunk,) = _chunks(small_disk / "cache")
    with chunk.open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"\x55")
    (small_disk / "other").write_bytes(b"x" * shutil.disk_usage(small_disk).free)
    said: list[str] = []
    timeline = engine.index(minute, fps=0.0, note=said.append)
    damaged, unsaved = said
    assert "damaged; dropped" in damaged
    assert "not saved" in unsaved
    assert "no space left" in unsaved
    assert (_features(timeline), timeline.saved) == (whole, False)
    with pytest.raises(DiskFullError, match="no space left"):
        engine.index(minute, fps=0.0, must_save=True)
    (small_disk / "other").unlink()
    timeline = engine.index(minute, fps=0.0)
    assert (_features(timeline), timeline.saved) == (whole, True)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="a socket is the file that nobody may open")
def test_features_that_cannot_be_read_now_cost_a_question_only_the_saving_and_are_kept(
    engine: Engine, minute: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _features(engine.index(minute, fps=0.0))
    (chunk,) = _chunks(cache)
    content = chunk.read_bytes()
    chunk.unlink()
    monkeypatch.chdir(chunk.parent)  # the path of a socket is short
    said: list[str] = []
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(chunk.name)
        timeline = engine.index(minute, fps=0.0, note=said.append)
        with pytest.raises(FileError, match="cannot be read"):
            engine.index(minute, fps=0.0, must_save=True)
    assert ["not saved" in text and str(chunk) in text and "cannot be read" in text for text in said] == [True]
    assert (_features(timeline), timeline.saved) == (whole, False)
    chunk.unlink()
    chunk.write_bytes(content)
    assert engine.index(minute, fps=0.0).encoded == 0
