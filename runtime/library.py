"""A clip's timeline: found where it was saved, and encoded, and saved, as far as it was not."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from numpy.typing import DTypeLike

from .bundle import Bundle
from .content import Content, identify
from .encoders import Encoders
from .errors import FileError, MediaError
from .indexing import Need, encode_missing, find_missing, is_covered
from .media import MediaInfo, probe
from .memory import Memory
from .remembered import read_remembered, remembered, start_memory, write_remembered
from .saved import SCHEMA, About, Rows, Saved, share
from .spec import ModelSpec
from .store import MOST_SMALL, Store
from .timeline import ClipFeature, FrameFeature, Timeline
from .times import check_span

_CHUNK_FEATURES = 32
_CHUNK_SECONDS = 5.0  # of work that a crash may cost
_MOST_CHUNKS = 8  # small ones, before they are merged
Note = Callable[[str], None]


def index_clip(
    path: Path,
    need: Need,
    bundle: Bundle,
    encoders: Encoders,
    dtype: DTypeLike,
    *,
    timeline: Timeline | None = None,
    must_save: bool = False,
    note: Note = lambda text: None,
    progress: Callable[[int, int], None] | None = None,
) -> Timeline:
    """The timeline of a file with all that is needed; see `Engine.index`.

    Raises:
        SpecError: the clip ends before the span begins.
        MediaError: it cannot be decoded, was changed meanwhile, or the model cannot use it.
        FileError, DiskFullError: it cannot be saved and must be, or features of it cannot be read.
    """
    started = time.perf_counter()
    content = identify(path)
    if timeline is not None and (timeline.content, timeline.model) != (content.sha256, bundle.encoders_hash):
        raise FileError(f"{path}: the timeline to extend is of another file or model; index the file without it")
    store = Store.of(content.sha256, bundle.encoders_hash)
    says: dict[str, object] = {"content": content.sha256, "model": bundle.encoders_hash, "video": bundle.video_hash}
    saved = _readable(store)
    if saved.about is not None and saved.is_whole and not saved.leftover and not saved.damaged():
        found = timeline or _from_about(saved.about)
        if timeline is None or not is_covered(found, need, bundle.spec):  # else its views are as good as they were
            saved.fill(found)
        found.remembered = found.remembered or read_remembered(store.folder, says)
        if is_covered(found, need, bundle.spec) and not _lacks_memory(found, need, bundle.spec):
            _check_kind(path, found.kind, need, bundle.spec)
            check_span(need.span, found.duration)
            found.encoded, found.shared, found.encode_ms, found.saved = 0, 0, 0.0, True
            return found
        timeline = found
    info = _info(content)
    content.check()
    _check_kind(path, info.kind, need, bundle.spec)
    check_span(need.span, info.duration)
    timeline = timeline or _from_info(info, content, bundle)
    with ExitStack() as stack:
        keeper = _Keeper(timeline, content, bundle.spec.name, must_save, note)
        try:
            if stack.enter_context(store.writing(_waiting(path, must_save or need.fps > 0, note))):
                keeper.store = store
        except FileError as error:
            keeper.give_up(error)
        del saved  # it maps chunks, as all that `_complete` uses does, and Windows removes none that is mapped
        needed = _complete(info, store, timeline, need, bundle, encoders, dtype, keeper, says, note, progress)
    timeline.encoded, timeline.shared = needed - keeper.shared, keeper.shared
    timeline.encode_ms = (time.perf_counter() - started) * 1000.0
    return timeline


def _complete(
    info: MediaInfo,
    store: Store,
    timeline: Timeline,
    need: Need,
    bundle: Bundle,
    encoders: Encoders,
    dtype: DTypeLike,
    keeper: _Keeper,
    says: dict[str, object],
    note: Note,
    progress: Callable[[int, int], None] | None,
) -> int:
    """Encode, and keep, what is missing; returns how much that was."""
    try:
        saved, is_whole = _tidied(store, keeper.store is not None, note)
    except FileError as error:
        keeper.give_up(error)
        saved, is_whole = _readable(store), False
    _take(saved, timeline, is_whole)
    missing = find_missing(info, timeline, need, bundle.spec)
    keeper.begin(saved, need.fps)
    del saved  # as `index_clip` says
    if need.fps > 0 and not timeline.frame_count:
        keeper.memory = start_memory(bundle.spec, len(missing.frames))
    try:
        encode_missing(info, missing, encoders, bundle.spec, dtype, keeper, progress)
    finally:
        keeper.flush()
    if _lacks_memory(timeline, need, bundle.spec):
        memory = _memory_of(timeline, bundle.spec) if keeper.memory is None else keeper.memory
        keeper.remember(encoders, says, memory)
    keeper.finish(need)
    return len(missing)


class _Keeper:
    """Adds what comes to the timeline and, chunk by chunk, to the store; `store` is None where nothing can be saved."""

    def __init__(self, timeline: Timeline, content: Content, model_name: str, must_save: bool, note: Note) -> None:
        self.store: Store | None = None
        self.memory: Memory | None = None  # of all that comes, where nothing was there before
        self.shared = 0  # pictures that came with the features of another one
        self._timeline = timeline
        self._content = content
        self._model_name = model_name
        self._must_save = must_save
        self._note = note
        self._frames: list[FrameFeature] = []
        self._clips: list[ClipFeature] = []
        self._whole: list[ClipFeature] = []
        self._since = time.monotonic()
        self._saved_frames: set[int] = set()
        self._saved_clips = 0
        self._wanted_fps = 0.0

    def begin(self, saved: Saved, wanted_fps: float) -> None:
        """Say on disk what the timeline is of, before any data is there."""
        self._saved_frames, self._saved_clips = set(saved.numbers), saved.clips
        self._wanted_fps = max(wanted_fps, saved.about.wanted_fps if saved.about else 0.0)
        self._describe()

    def add(
        self, frames: Sequence[FrameFeature] = (), clips: Sequence[ClipFeature] = (), whole: Sequence[ClipFeature] = ()
    ) -> None:
        """Keep these."""
        self._show(frames, clips, whole)
        self.shared += sum(frame.of is not None for frame in frames)
        if self.memory is not None:
            for frame in frames:
                self.memory.add(frame.time, frame.features)
        if self.store is None:
            return
        self._frames += frames
        self._clips += clips
        self._whole += whole
        count = len(self._frames) + len(self._clips) + len(self._whole)
        if count >= _CHUNK_FEATURES or time.monotonic() - self._since >= _CHUNK_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Save what is not saved yet, if the file is still what it was."""
        self._since = time.monotonic()
        frames, clips, whole = self._frames, self._clips, self._whole
        self._frames, self._clips, self._whole = [], [], []
        if self.store is None or not (frames or clips or whole):
            return
        self._check()
        try:
            self._map(self.store.append(frames, clips, whole))
            self._saved_frames.update(frame.index for frame in frames if frame.of is None)
            # Without the picture whose features they have, those that share them are nothing on disk.
            self._saved_frames.update(frame.index for frame in frames if frame.of in self._saved_frames)
            self._saved_clips += len(clips) + len(whole)
            self._keep_merged(self.store.settle())
        except FileError as error:
            self.give_up(error)

    def remember(self, encoders: Encoders, says: dict[str, object], memory: Memory) -> None:
        """Read the whole of it now, for all questions about the whole of it."""
        merged = memory.frames()
        embeds = encoders.video_embeds(merged.features).data
        self._timeline.remembered = whole = remembered(merged, self._timeline.frame_count, embeds)
        if self.store is not None:
            try:
                write_remembered(self.store.folder, says, whole)
            except OSError as error:
                self._note(f"{self.store.folder}: {error.strerror}; the first question about all of it takes longer")

    def finish(self, need: Need) -> None:
        """All that was needed is there."""
        self._check()
        self._timeline.fps = max(self._timeline.fps, need.fps)
        self._timeline.listened |= need.fps > 0 and need.audio
        self._wanted_fps = self._timeline.fps if need.fps > 0 else self._wanted_fps
        self._describe()
        there = (self._timeline.frame_count, self._timeline.clip_count)
        self._timeline.saved = self.store is not None and (len(self._saved_frames), self._saved_clips) == there
        if self.store is not None:
            try:
                self._keep_merged(self.store.compact(1 if need.fps > 0 else _MOST_CHUNKS))
            except FileError as error:
                self._note(f"{error} (its features are saved, in more files than needed)")

    def give_up(self, error: FileError) -> None:
        """Go on without saving, or not at all where saving is the point."""
        if self._must_save:
            raise error
        self.store = None
        self._note(f"not saved: {error}")

    def _describe(self) -> None:
        if self.store is None:
            return
        timeline, content = self._timeline, self._content
        about = About(
            schema=SCHEMA, model=timeline.model, content=timeline.content, kind=timeline.kind, length=timeline.length,
            duration=timeline.duration, frame_rate=timeline.frame_rate, sound=timeline.sound, samples=timeline.samples,
            fps=timeline.fps, listened=timeline.listened, wanted_fps=max(self._wanted_fps, timeline.fps),
            frames=len(self._saved_frames), clips=self._saved_clips, model_name=self._model_name,
            path=str(content.path.resolve()), file_bytes=content.bytes, mtime_ns=content.mtime_ns,
        )  # fmt: skip
        try:
            self.store.describe(about)
        except FileError as error:
            self.give_up(error)

    def _show(self, frames: Sequence[FrameFeature], clips: Sequence[ClipFeature], whole: Sequence[ClipFeature]) -> None:
        for frame in frames:
            self._timeline.add_frame(frame)
        for clip in clips:
            self._timeline.add_clip(clip, whole=False)
        if whole:
            self._timeline.replace_whole_clips(tuple(whole))

    def _keep_merged(self, merged: Rows | None) -> None:
        if merged is not None:
            self._map(merged)

    def _map(self, saved: Rows) -> None:
        """Show the same from disk, so that neither memory grows nor a file that was merged stays open."""
        self._show(saved.frames, saved.clips, saved.whole)
        for shared in saved.shared:
            own, shown = self._timeline.frame(shared.of), self._timeline.frame(shared.index)
            if own is not None and shown is not None and shown.of == own.index:
                self._timeline.add_frame(share(shared, own))

    def _check(self) -> None:
        try:
            self._content.check()
        except MediaError:
            if self.store is not None:
                self.store.undo()
            raise


def _lacks_memory(timeline: Timeline, need: Need, spec: ModelSpec) -> bool:
    if need.fps <= 0 or timeline.kind != "video" or start_memory(spec, timeline.frame_count) is None:
        return False
    return timeline.remembered is None or not timeline.remembered.is_of(timeline.frame_count)


def _memory_of(timeline: Timeline, spec: ModelSpec) -> Memory:
    memory = start_memory(spec, timeline.frame_count)
    assert memory is not None
    for frame in timeline.frames_in():
        memory.add(frame.time, frame.features)
    return memory


@functools.lru_cache(maxsize=1)
def _info(content: Content) -> MediaInfo:
    """What the file holds; the last answer is remembered, as finding it out reads the whole file."""
    return probe(content.path)


def _readable(store: Store) -> Saved:
    """What is saved; nothing where that cannot be read now, of which `_tidied` says why."""
    try:
        return store.read()
    except FileError:
        return Saved(None, (), (), ())


def _tidied(store: Store, clean: bool, note: Note) -> tuple[Saved, bool]:
    """What is saved by now, and whether that is all; what is of no use is said, and removed where that is allowed."""
    saved = store.read()
    for path, why in saved.broken:
        note(f"{path}: {why}; dropped, what it held is encoded again when it is needed")
    damaged = saved.damaged()
    is_whole = saved.is_whole and not damaged
    for chunk, count in damaged:
        what = "a feature is" if count == 1 else f"{count} features are"
        note(f"{chunk.path}: {what} damaged; dropped, and encoded again when it is needed")
    if clean:
        store.clean(saved)
        for chunk, _ in damaged:
            store.repair(chunk)
        if damaged or len(saved.chunks) > MOST_SMALL:  # as many as that are left by one that was killed often
            store.compact(MOST_SMALL)
            saved = store.read()
    return saved, is_whole


def _take(saved: Saved, timeline: Timeline, is_whole: bool) -> None:
    """Fill the timeline; where something is lost, nothing is taken for complete."""
    if saved.about is not None:
        timeline.samples = saved.about.samples
    whole = saved.about if is_whole else None
    timeline.fps = whole.fps if whole else 0.0
    timeline.listened = whole.listened if whole else False
    saved.fill(timeline)


def _waiting(path: Path, patient: bool, note: Note) -> Callable[[int], bool]:
    def wait(process: int) -> bool:
        who = f"process {process}" if process else "another process"
        if patient:
            note(f"{path}: {who} is indexing it; waiting for that, and then going on with what is left")
            return True
        note(f"{path}: {who} is indexing it; what is encoded for this question is not saved")
        return False

    return wait


def _check_kind(path: Path, kind: str, need: Need, spec: ModelSpec) -> None:
    if kind == "audio" and (spec.audio is None or not need.audio):
        why = "sound was switched off" if spec.audio else f"{spec.name} has no audio branch"
        raise MediaError(f"{path}: it has only sound and {why}; use a clip with pictures")


def _from_about(about: About) -> Timeline:
    return Timeline(
        model=about.model, content=about.content, kind=about.kind, length=about.length, duration=about.duration,
        frame_rate=about.frame_rate, sound=about.sound, fps=about.fps, listened=about.listened, samples=about.samples,
    )  # fmt: skip


def _from_info(info: MediaInfo, content: Content, bundle: Bundle) -> Timeline:
    return Timeline(
        model=bundle.encoders_hash, content=content.sha256, kind=info.kind, length=len(info.frame_times),
        duration=info.duration, frame_rate=info.frame_rate, sound=info.has_audio,
    )  # fmt: skip
