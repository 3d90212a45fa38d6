from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import av
import numpy as np
import pytest

from vllama.runtime import Engine, Span, Timeline, indexing
from vllama.runtime.bundle import Bundle
from vllama.runtime.cache import library, saver
from vllama.runtime.cache.catalogue import list_entries
from vllama.runtime.cache.content import identify
from vllama.runtime.cache.saved import About
from vllama.runtime.cache.store import MOST_SMALL, Store
from vllama.runtime.change import STILL, Glance
from vllama.runtime.encoders import Encoders
from vllama.runtime.errors import FileError, MediaError, SpecError
from vllama.runtime.media import MediaInfo, probe, read_frames
from vllama.runtime.pixels import frame_indices
from vllama.runtime.placement import Placement
from vllama.runtime.remembered import start_memory
from vllama.runtime.timeline import Budget, ClipFeature, FrameFeature
from vllama.runtime.types import Embeds, Float32
from vllama.runtime.view import Viewer

pytestmark = pytest.mark.usefixtures("cache")
_RATE, _SECONDS, _CHANGE = 5, 20, 13


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.open("miniature", threads=1, answers=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two still pictures, 13 and 7 seconds long, with a camera's noise."""
    return _film(tmp_path_factory.mktemp("clips") / "noisy.mp4", 3.0)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without noise."""
    return _film(tmp_path_factory.mktemp("clips") / "frozen.mp4", 0.0)


def _film(path: Path, noise: float) -> Path:
    random = np.random.default_rng(0)
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", _RATE, options={"crf": "8", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for index in range(_RATE * _SECONDS):
            pixels = np.full((64, 64, 3), 120.0)
            pixels[20:40, 10:30] = (200, 60, 40) if index < _CHANGE * _RATE else (40, 60, 200)
            shown = np.clip(pixels + random.normal(0.0, noise, pixels.shape), 0, 255).astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(shown, "rgb24")))
        container.mux(video.encode())
    return path


def _all(timeline: Timeline) -> list[tuple[int, float, int | None, bool, bytes]]:
    return [(f.index, f.time, f.of, f.equal, f.features.tobytes()) for f in timeline.frames_in()]


def _shared(timeline: Timeline) -> int:
    return sum(frame.of is not None for frame in timeline.frames_in())


def test_pictures_beside_the_rule_share_and_those_of_the_rule_are_the_encoders_own(engine: Engine, noisy: Path) -> None:
    timeline, size = engine.index(noisy, fps=1.0), engine.spec.video.image_size
    rule = frame_indices(engine.spec.video.num_frames, timeline.length)
    shown = {frame.index: frame for frame in read_frames(probe(noisy), range(timeline.length), size)}
    for frame in timeline.frames_in():
        if frame.index in rule:
            own = engine._encoders.frame_features([shown[frame.index]])[0].astype(frame.features.dtype)
            assert frame.of is None
            np.testing.assert_array_equal(frame.features, own)
        if frame.of is not None:
            assert frame.of < frame.index
            assert Glance(shown[frame.index].pixels).change(Glance(shown[frame.of].pixels)) < STILL
            assert (frame.of < _CHANGE * _RATE) == (frame.index < _CHANGE * _RATE)
    assert timeline.encoded == len(rule) + 1, _all(timeline)  # and the first one after the change
    assert timeline.shared == _shared(timeline) == timeline.frame_count - timeline.encoded > 8


def test_shared_features_are_kept_once_and_found_again(engine: Engine, noisy: Path, cache: Path) -> None:
    before = engine.index(noisy, fps=1.0)
    (entry,) = list_entries()
    assert (entry.frames, entry.shared) == (before.frame_count, _shared(before))
    (chunk,) = cache.glob("timelines/*/*.safetensors")
    features = before.frames_in()[0].features.nbytes
    assert before.encoded * features < chunk.stat().st_size < (before.encoded + 2) * features
    after = engine.index(noisy, fps=1.0)
    assert (after.encoded, after.shared, after.saved) == (0, 0, True)
    assert _all(after) == _all(before)
    assert len({id(frame.features) for frame in after.frames_in()}) == before.encoded


@pytest.mark.parametrize("moment", [3, 7, 12, 18])
def test_index_that_goes_on_shares_what_it_would_have_without_the_pause(
    engine: Engine, noisy: Path, moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if done == moment:
            raise KeyboardInterrupt

    monkeypatch.setattr(saver, "_CHUNK_FEATURES", 4)
    with pytest.raises(KeyboardInterrupt):
        engine.index(noisy, fps=1.0, progress=stop)
    resumed = engine.index(noisy, fps=1.0)
    assert 0 < resumed.encoded + resumed.shared < resumed.frame_count
    assert len(list_entries()) == 1
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "another"))
    assert _all(engine.index(noisy, fps=1.0)) == _all(resumed)


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures went through the encoder each time."""
    run, sizes = Encoders._run, list[int]()

    def watched(self: Encoders, graph: str, **inputs: Float32) -> dict[str, Float32]:
        if graph == "frames":
            sizes.append(len(inputs["pixel_values"]))
        return run(self, graph, **inputs)

    monkeypatch.setattr(Encoders, "_run", watched)
    return sizes


@pytest.mark.parametrize(
    ("batch", "held", "sizes"), [(1, 32, [1] * 9), (3, 1000, [3, 3, 3]), (8, 1000, [8, 1]), (1000, 30, [3, 4, 2])]
)
def test_pictures_encoded_together_are_those_encoded_one_by_one(
    engine: Engine, noisy: Path, together: list[int], batch: int, held: int, sizes: list[int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    alone = engine.index(noisy, fps=4.0)
    together.clear()
    monkeypatch.setattr(Placement, "batch", batch)  # as on a GPU
    monkeypatch.setattr(indexing, "_MOST_HELD", held)
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "another"))
    said: list[int] = []
    at_once = engine.index(noisy, fps=4.0, progress=lambda done, total: said.append(done))
    assert together == sizes
    assert said == list(range(1, at_once.frame_count + 1))
    assert [row[:4] for row in _all(at_once)] == [row[:4] for row in _all(alone)]
    assert (at_once.encoded, at_once.shared, at_once.saved) == (alone.encoded, alone.shared, True)
    for frame, other in zip(at_once.frames_in(), alone.frames_in(), strict=True):
        np.testing.assert_allclose(frame.features, other.features, atol=1e-4 * float(np.abs(other.features).max()))


def test_index_after_a_question_shares_what_it_would_have_before_it(
    engine: Engine, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.index(noisy, fps=0.0)
    asked_before = _all(engine.index(noisy, fps=1.0))
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "another"))
    assert _all(engine.index(noisy, fps=1.0)) == asked_before


def _there_and_back(path: Path) -> Path:
    """One picture, for two frames another one, the first again to the bit, and then one that only resembles it."""
    one, other = np.full((64, 64, 3), 120, np.uint8), np.full((64, 64, 3), 120, np.uint8)
    one[20:40, 10:30], other[20:40, 10:30] = (200, 60, 40), (40, 60, 200)
    near = one + np.uint8(2)
    with av.open(path, "w") as container:
        video = container.add_stream("ffv1", _RATE)
        video.width, video.height, video.pix_fmt = 64, 64, "bgr0"
        for index in range(64):
            pixels = other if index in (6, 7) else one if index <= 8 else near
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(video.encode())
    return path


def test_question_about_the_whole_clip_changes_no_features_of_an_index_after_it(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = _there_and_back(tmp_path / "film.mkv")
    alone = engine.index(film, fps=float(_RATE))
    assert [frame.index for frame in alone.frames_in() if frame.of is None][:3] == [0, 6, 8]
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "another"))
    engine.index(film, fps=0.0)
    asked_before = engine.index(film, fps=float(_RATE))
    of = {frame.index: frame.of for frame in asked_before.frames_in()}
    assert (of[6], of[7], of[8], of[9]) == (None, 6, 0, 0)  # 8 is 0 to the bit, and so it has its features
    for frame, other in zip(asked_before.frames_in(), alone.frames_in(), strict=True):
        assert (frame.index, frame.features.tobytes()) == (other.index, other.features.tobytes())


def test_picture_that_a_span_asks_for_is_encoded_itself_and_stays_so(engine: Engine, noisy: Path) -> None:
    timeline = engine.index(noisy, fps=1.0)
    (near, *_) = (f for f in timeline.frames_in() if f.of is not None and f.time > 3.0)
    span = Span(near.time, near.time + 1.0)
    asked = engine.index(noisy, fps=0.0, span=span, timeline=timeline)
    assert asked.encoded > 0
    assert all(frame.equal for frame in asked.choose_frames(8, span))
    found = asked.frame(near.index)
    assert found is not None
    assert found.of is None
    assert found.features.tobytes() != near.features.tobytes()
    assert asked.saved
    again = engine.index(noisy, fps=1.0)
    assert again.encoded == 0
    assert _all(again) == _all(asked)


def test_pictures_of_the_rule_share_what_is_the_same_to_the_bit(engine: Engine, frozen: Path) -> None:
    timeline = engine.index(frozen, fps=1.0)
    shown = list(read_frames(probe(frozen), range(timeline.length), engine.spec.video.image_size))
    different = len({frame.pixels.tobytes() for frame in shown})
    assert timeline.encoded <= different < engine.spec.video.num_frames, (timeline.encoded, different)
    for index in frame_indices(engine.spec.video.num_frames, timeline.length):
        frame = timeline.frame(index)
        assert frame is not None
        own = engine._encoders.frame_features([shown[index]])[0].astype(frame.features.dtype)
        np.testing.assert_array_equal(frame.features, own)


def test_memory_of_shared_features_is_that_of_the_features_repeated(engine: Engine, noisy: Path) -> None:
    timeline = engine.index(noisy, fps=4.0)
    assert timeline.shared > 40
    memory = start_memory(engine.spec, timeline.frame_count)
    assert memory is not None
    for frame in timeline.frames_in():
        memory.add(frame.time, np.array(frame.features))
    assert timeline.remembered is not None
    embeds = engine._encoders.video_embeds(memory.frames().features).data
    np.testing.assert_array_equal(timeline.remembered.embeds, embeds)


def test_memory_of_the_whole_is_made_again_by_another_video_q_former(
    engine: Engine, noisy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[int]()
    video_embeds = Encoders.video_embeds

    def counted(encoders: Encoders, features: Float32) -> Embeds:
        made.append(len(features))
        return video_embeds(encoders, features)

    monkeypatch.setattr(Encoders, "video_embeds", counted)
    for _ in range(2):
        assert engine.index(noisy, fps=4.0).remembered is not None
    assert len(made) == 1
    monkeypatch.setattr(Bundle, "video_hash", "of another")
    for _ in range(2):
        assert engine.index(noisy, fps=4.0).encoded == 0
    assert len(made) == 2


@pytest.mark.parametrize("of", ["content", "model"])
def test_timeline_of_another_file_or_model_is_not_extended(engine: Engine, frozen: Path, of: str) -> None:
    timeline = engine.index(frozen, fps=0.0)
    count = timeline.frame_count
    setattr(timeline, of, "another")
    with pytest.raises(FileError) as error:
        engine.index(frozen, fps=4.0, timeline=timeline)
    refusal = "the timeline to extend is of another file or model; index the file without it"
    assert str(error.value) == f"{frozen}: {refusal}"
    assert timeline.frame_count == count


def test_damaged_feature_is_dropped_said_and_encoded_again(engine: Engine, noisy: Path, cache: Path) -> None:
    whole = _all(engine.index(noisy, fps=1.0))
    (chunk,) = cache.glob("timelines/*/*.safetensors")
    with chunk.open("r+b") as file:
        file.seek(-5, os.SEEK_END)  # the last picture's
        file.write(b"\x55")
    said: list[str] = []
    timeline = engine.index(noisy, fps=1.0, note=said.append)
    assert [str(chunk) in text and "a feature is damaged; dropped" in text for text in said] == [True], said
    assert timeline.encoded == 1
    assert _all(timeline) == whole
    said.clear()
    assert engine.index(noisy, fps=1.0, note=said.append).encoded == 0
    assert said == []
    assert len(list(cache.glob("timelines/*/*.safetensors"))) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="what is mapped cannot be written there")
def test_damage_beside_what_a_question_needs_is_said_too(engine: Engine, noisy: Path, cache: Path) -> None:
    timeline = engine.index(noisy, fps=1.0)
    rule = frame_indices(engine.spec.video.num_frames, timeline.length)
    beside = next(frame for frame in timeline.frames_in() if frame.of is None and frame.index not in rule)
    (chunk,) = cache.glob("timelines/*/*.safetensors")
    data = bytearray(chunk.read_bytes())
    data[data.index(beside.features.tobytes())] ^= 1
    chunk.write_bytes(data)
    said: list[str] = []
    assert engine.index(noisy, fps=0.0, note=said.append).encoded == 0
    assert ["a feature is damaged; dropped" in text for text in said] == [True], said
    assert engine.index(noisy, fps=1.0).encoded == 1


def test_span_of_an_index_that_lost_a_file_is_encoded_again(
    engine: Engine, noisy: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    span = Span(3.0, 6.0)
    engine.index(noisy, fps=5.0)
    (chunk,) = cache.glob("timelines/*/*.safetensors")
    chunk.unlink()
    lost = engine.index(noisy, fps=0.0, span=span)
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "another"))
    fresh = engine.index(noisy, fps=0.0, span=span)
    assert [frame.index for frame in lost.frames_in(span)] == [frame.index for frame in fresh.frames_in(span)]
    assert len(lost.frames_in(span)) >= engine.spec.video.num_frames


def test_who_wants_all_of_it_waits_for_the_one_at_work(engine: Engine, noisy: Path) -> None:
    store = Store.of(identify(noisy).sha256, engine.bundle.encoders_hash)
    said: SimpleQueue[str] = SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        with store.writing(lambda process: False) as held:
            assert held
            waiting = pool.submit(engine.index, noisy, fps=1.0, note=said.put)
            assert "waiting for that, and then going on with what is left" in said.get(timeout=20)
        assert waiting.result().saved


def test_index_that_was_stopped_stays_unfinished_whatever_is_asked_meanwhile(engine: Engine, noisy: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.index(noisy, fps=2.0, progress=stop)
    engine.index(noisy, fps=0.0)
    assert [entry.state for entry in list_entries()] == ["unfinished"]


def test_graphs_that_encode_are_given_back_and_opened_again(engine: Engine, noisy: Path) -> None:
    timeline = engine.index(noisy, fps=1.0)
    engine._encoders.release()
    assert set(engine._encoders._open) <= {"video", "audio"}
    assert engine.index(noisy, fps=4.0, timeline=timeline).encoded + timeline.shared > 40


def test_shared_pictures_whose_features_were_never_saved_are_not_counted_as_saved(
    engine: Engine, noisy: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "file" / "cache"))
    said: list[str] = []
    timeline = engine.index(noisy, fps=1.0, note=said.append)
    assert ["not saved" in text for text in said] == [True]
    monkeypatch.setenv("VLLAMA_CACHE", str(cache))
    timeline = engine.index(noisy, fps=4.0, timeline=timeline)
    assert timeline.shared > 20
    assert not timeline.saved
    assert [(entry.state, entry.problem) for entry in list_entries()] == [("indexed", "")]
    again = engine.index(noisy, fps=4.0)
    assert again.saved
    assert again.frame_count == timeline.frame_count


def test_view_is_made_anew_when_a_shared_picture_gets_its_own_features(engine: Engine, noisy: Path) -> None:
    timeline = engine.index(noisy, fps=1.0)
    viewer = Viewer(timeline, engine._encoders, engine.spec, audio=False)
    span = Span(2.0, 12.0)
    before = viewer.look(span, "frames")
    assert viewer.look(span, "frames") is before
    engine.index(noisy, fps=1.0, timeline=timeline)  # finds all of it, and so what was prepared is still good
    assert viewer.look(span, "frames") is before
    near = next(frame for frame in timeline.choose_frames(8, span) if frame.of is not None)
    timeline.add_frame(FrameFeature(near.index, near.time, np.roll(near.features, 1, axis=0)))
    after = viewer.look(span, "frames")
    assert before.media.video is not None
    assert after.media.video is not None
    assert not np.array_equal(after.media.video.data, before.media.video.data)


def test_chunks_that_many_killed_ones_left_are_merged_before_more_are_written(
    engine: Engine, noisy: Path, cache: Path
) -> None:
    timeline = engine.index(noisy, fps=0.0)
    store = Store.of(timeline.content, timeline.model)
    with store.writing(lambda process: False):
        for index in range(2 * MOST_SMALL):
            store.append([FrameFeature(index, index / _RATE, timeline.frames_in()[0].features)], [], [])

    def look(done: int, total: int) -> None:
        if done == 1 and sys.platform != "win32":  # where what is mapped stays until it is used no more
            assert len(list(cache.glob("timelines/*/*.safetensors"))) <= 2

    engine.index(noisy, fps=4.0, progress=look)
    assert len(list(cache.glob("timelines/*/*.safetensors"))) <= 2


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to tell what is mapped")
@pytest.mark.parametrize("is_extended", [False, True])
def test_merged_chunks_go_where_what_is_mapped_cannot_be_removed(
    engine: Engine, noisy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, is_extended: bool
) -> None:
    """As on Windows; what stays would cost every question after it the way of a clip that is complete."""
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if f" {path}\n" in Path("/proc/self/maps").read_text():
            raise PermissionError(13, "The process cannot access the file", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(saver, "_CHUNK_FEATURES", 4)
    first: Timeline | None = engine.index(noisy, fps=0.0)
    if not is_extended:
        first = None
    indexed = engine.index(noisy, timeline=first, fps=1.0)
    assert len(list(cache.glob("timelines/*/*.safetensors"))) == 1
    (about,) = cache.glob("timelines/*/about.json")
    written = about.stat().st_mtime_ns
    again = engine.index(noisy, fps=1.0)
    assert (again.encoded, about.stat().st_mtime_ns) == (0, written)
    assert _all(again) == _all(indexed)


def test_view_of_what_is_live_is_made_anew_when_as_much_sound_came_as_went(engine: Engine) -> None:
    timeline = Timeline("m", "", "audio", 0, 0.0, 0.0, sound=True, live=True, budget=Budget(seconds=8.0))
    viewer = Viewer(timeline, engine._encoders, engine.spec, audio=True)
    assert engine.spec.audio is not None
    features = np.random.default_rng(0).normal(size=(12, engine.spec.audio.encoder.output_size)).astype(np.float16)
    views = []
    for second, feature in enumerate(features):
        timeline.add_clip(ClipFeature(float(second), second + 2.0, feature))
        views.append((timeline.clip_count, viewer.look(Span.last(4.0), "frames")))
    (before, then), (after, now) = views[-2:]
    assert before == after
    assert then.audio_spans != now.audio_spans


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are texts there")
def test_name_that_is_no_text_is_a_name(engine: Engine, frozen: Path, tmp_path: Path) -> None:
    film = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    shutil.copy(frozen, film)
    assert engine.index(film).encoded > 0
    assert engine.index(film).encoded == 0
    (entry,) = list_entries()
    assert (entry.source, entry.about and entry.about.path) == ("there", str(film))


@pytest.mark.parametrize("fps", [1e9, float("inf"), float("nan"), -1.0])
def test_density_that_is_none_is_refused(engine: Engine, frozen: Path, fps: float, cache: Path) -> None:
    with pytest.raises(SpecError, match="use 0 to 1000"):
        engine.index(frozen, fps=fps)
    assert not cache.exists()


@pytest.mark.parametrize("indexed", [False, True])
def test_span_after_the_end_costs_nothing(engine: Engine, frozen: Path, cache: Path, indexed: bool) -> None:
    if indexed:
        engine.index(frozen)
    with pytest.raises(SpecError, match="the clip is 0:20 long, and 1:02 is not in it"):
        engine.index(frozen, span=Span(62.0, 100.0))
    assert len(list_entries()) == indexed


def test_cache_that_is_no_folder_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text("mine")
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "text.txt"))
    with pytest.raises(FileError, match=r"text\.txt: is no folder"):
        list_entries()


def test_file_that_cannot_be_used_leaves_no_trace(engine: Engine, tmp_path: Path, cache: Path) -> None:
    """There would be no timeline with which to delete it."""
    path = tmp_path / "secret.txt"
    path.write_text("mine")
    os.utime(path, ns=(10**18, 10**18))
    with pytest.raises(MediaError):
        engine.index(path)
    assert not list(cache.rglob("*.json"))


def test_tracks_that_are_not_heard_are_said_where_there_is_something_to_hear_with(
    engine: Engine, sound_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, said = replace(probe(sound_file), sound_notes=("hears sound track 1 of 2",)), list[str]()
    monkeypatch.setattr(library, "probe", lambda path: two)
    library._info.cache_clear()
    engine.index(sound_file, note=said.append)
    assert said == [f"{sound_file}: hears sound track 1 of 2"]
    engine.index(sound_file, note=said.append)
    assert len(said) == 1, "it is found, and nothing of it is read"
    library._info.cache_clear()


def test_index_that_was_killed_before_its_files_were_merged_merges_them(
    engine: Engine, noisy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(store: Store, most: int) -> None:
        raise KeyboardInterrupt

    def files() -> int:
        return len(list(cache.glob("timelines/*/*.safetensors")))

    monkeypatch.setattr(saver, "_CHUNK_FEATURES", 4)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "compact", killed)
        with pytest.raises(KeyboardInterrupt):
            engine.index(noisy, fps=1.0)
    assert files() > 2
    engine.index(noisy, fps=1.0)
    assert files() == 1


@pytest.mark.parametrize("changed_ns", [10**18, 4 * 10**18])
def test_file_is_looked_through_once_however_much_of_it_is_asked_for(
    changed_ns: int, engine: Engine, frozen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its content is not remembered: in 2096 it may be changed again unseen."""
    path = Path(shutil.copy(frozen, tmp_path / "clip.mp4"))
    os.utime(path, ns=(changed_ns, changed_ns))
    seen: list[Path] = []

    def looked(path: Path) -> MediaInfo:
        seen.append(path)
        return probe(path)

    monkeypatch.setattr(library, "probe", looked)
    library._info.cache_clear()
    timeline = engine.index(path, fps=0.0)
    for start in (1.0, 4.0, 9.0):
        engine.index(path, fps=0.0, span=Span(start, start + 1.0), timeline=timeline)
    assert seen == [path]
    library._info.cache_clear()


def test_timeline_whose_description_cannot_be_written_is_not_saved(
    engine: Engine, frozen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe, said = Store.describe, list[str]()

    def full(store: Store, about: About) -> None:
        if about.fps > 0:
            raise FileError("the disk is full")
        describe(store, about)

    monkeypatch.setattr(Store, "describe", full)
    timeline = engine.index(frozen, fps=1.0, note=said.append)
    assert (timeline.saved, said) == (False, ["not saved: the disk is full"])


def test_progress_ends_with_all_that_was_to_encode(engine: Engine, film: Path) -> None:
    said: list[tuple[int, int]] = []
    timeline = engine.index(film, progress=lambda *step: said.append(step))
    assert said[-1] == (timeline.encoded + timeline.shared,) * 2


def test_what_took_long_is_saved_before_there_is_much_of_it(
    engine: Engine, noisy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[int] = []
    monkeypatch.setattr(saver, "_CHUNK_SECONDS", 0.0)
    engine.index(noisy, fps=1.0, progress=lambda *step: files.append(len(list(cache.glob("*/*/*.safetensors")))))
    assert files[1] > 0


def test_question_about_a_span_leaves_an_index_finished(engine: Engine, noisy: Path) -> None:
    engine.index(noisy, fps=1.0)
    assert engine.index(noisy, fps=0.0, span=Span(3.0, 4.0)).encoded > 0
    assert [(entry.state, entry.about and entry.about.fps) for entry in list_entries()] == [("indexed", 1.0)]


def test_index_that_was_stopped_is_finished_by_a_sparser_one(engine: Engine, noisy: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.index(noisy, fps=2.0, progress=stop)
    engine.index(noisy, fps=1.0)
    assert [entry.state for entry in list_entries()] == ["indexed"]


def test_features_that_cannot_be_merged_are_saved_all_the_same(
    engine: Engine, noisy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(store: Store, most: int) -> None:
        raise FileError("the disk is full")

    monkeypatch.setattr(Store, "compact", full)
    said: list[str] = []
    assert engine.index(noisy, fps=1.0, must_save=True, note=said.append).saved
    assert said == ["the disk is full (its features are saved, in more files than needed)"]


def test_timeline_is_of_the_file_and_not_of_the_folder_it_was_indexed_from(
    engine: Engine, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.chdir(noisy.parent)
        engine.index(Path(noisy.name), fps=0.0)
    monkeypatch.chdir(tmp_path)
    assert [entry.source for entry in list_entries()] == ["there"]


def test_file_that_changes_while_it_is_read_is_given_up_at_the_next_chunk(
    engine: Engine, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, said = Path(shutil.copy(noisy, tmp_path / "growing.mp4")), list[int]()

    def change(done: int, total: int) -> None:
        said.append(done)
        os.utime(path, ns=(10**18, 10**18 + 1))

    monkeypatch.setattr(saver, "_CHUNK_FEATURES", 4)
    with pytest.raises(MediaError, match="was changed while it was read"):
        engine.index(path, fps=4.0, progress=change)
    assert said[-1] < 8


def test_file_that_changes_while_it_is_read_is_said_also_where_nothing_is_saved(
    engine: Engine, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(noisy, tmp_path / "growing.mp4"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(MediaError, match="was changed while it was read"):
        engine.index(path, fps=0.0, progress=lambda done, total: os.utime(path, ns=(10**18, 10**18 + 1)))


def test_memory_of_the_whole_that_cannot_be_written_is_there_all_the_same(
    engine: Engine, noisy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*what: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saver, "write_remembered", full)
    said: list[str] = []
    timeline = engine.index(noisy, fps=4.0, note=said.append)
    assert (timeline.remembered is not None, timeline.saved) == (True, True)
    assert ["No space left on device; the first question" in text for text in said] == [True]
