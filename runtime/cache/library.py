"""A clip's timeline: found where it was saved, and encoded, and saved, as far as it was not."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..bundle import Bundle
from ..encoders import Encoders
from ..errors import FileError, MediaError
from ..indexing import Need, encode_missing, find_missing, is_covered
from ..media import MediaInfo, probe
from ..memory import Memory
from ..remembered import read_remembered, start_memory
from ..spec import ModelSpec
from ..timeline import Timeline
from ..times import check_span, ms_since
from .catalogue import remove_traces_unless_saved
from .content import Content, identify, remember
from .saved import About, Saved
from .saver import Note, Saver, remembered_of
from .store import MOST_SMALL, Store

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Library:
    """The clips in the user's cache, as one model sees and hears them."""

    bundle: Bundle
    encoders: Encoders

    def index(
        self,
        path: Path,
        need: Need,
        *,
        timeline: Timeline | None = None,
        must_save: bool = False,
        note: Note = lambda text: None,
        progress: Progress | None = None,
    ) -> Timeline:
        """The timeline of a file with all that is needed; see `Engine.index`.

        Raises:
            SpecError: the clip ends before the span begins.
            MediaError: it cannot be decoded, was changed meanwhile, or the model cannot use it.
            FileError, DiskFullError: it cannot be saved and must be, or features of it cannot be read.
        """
        started = time.perf_counter()
        content = identify(path)
        if timeline is not None and (timeline.content, timeline.model) != (content.sha256, self.bundle.encoders_hash):
            raise FileError(f"{path}: the timeline to extend is of another file or model; index the file without it")
        store = Store.of(content.sha256, self.bundle.encoders_hash)
        found = self._found(content, store, need, timeline)
        if found is not None and self._has_all(found, need):
            _check_use(path, found.kind, found.duration, need, self.bundle.spec)
            remember(content)
            found.encoded, found.shared, found.encode_ms, found.saved = 0, 0, 0.0, True
            return found
        info = _info(content)
        content.check()
        _check_use(path, info.kind, info.duration, need, self.bundle.spec)
        remember(content)  # not of a file that cannot be used: no timeline of it would be there to delete
        hears = need.audio and self.bundle.spec.audio is not None
        for text in info.sound_notes if hears else ():
            note(f"{path}: {text}")
        timeline = found or timeline or _from_info(info, content, self.bundle)
        saver = Saver(timeline, content, self.bundle, must_save, note)
        with _no_traces_of_what_fails(content), ExitStack() as stack:
            try:
                if stack.enter_context(store.writing(_waiting(path, must_save or need.fps_throughout > 0, note))):
                    saver.store = store
            except FileError as error:
                saver.give_up(error)
            needed = self._complete(info, store, need, saver, progress)
        for text in info.heard.notes():
            note(f"{path}: {text}")
        timeline.encoded, timeline.shared = needed - saver.shared, saver.shared
        timeline.encode_ms = ms_since(started)
        return timeline

    def _found(self, content: Content, store: Store, need: Need, timeline: Timeline | None) -> Timeline | None:
        """What is saved, in the timeline if there is one; None where that is not all whole."""
        saved = _readable(store)
        if saved.about is None or not saved.is_whole or saved.leftover or saved.damaged():
            return None
        found = timeline or _from_about(saved.about)
        if timeline is None or not is_covered(found, need, self.bundle.spec):  # else its views are as good as they were
            saved.fill(found)
        found.remembered = found.remembered or read_remembered(store.folder, remembered_of(content, self.bundle))
        return found

    def _has_all(self, timeline: Timeline, need: Need) -> bool:
        return is_covered(timeline, need, self.bundle.spec) and not self._lacks_memory(timeline, need)

    def _complete(self, info: MediaInfo, store: Store, need: Need, saver: Saver, progress: Progress | None) -> int:
        """Encode, and keep, what is missing; returns how much that was.

        What maps saved chunks ends with this: Windows removes no file that is mapped, and the merged ones are removed
        when the store is let go.
        """
        spec, timeline = self.bundle.spec, saver.timeline
        try:
            saved, is_whole = _tidied(store, saver.store is not None, saver.note)
        except FileError as error:
            saver.give_up(error)
            saved, is_whole = _readable(store), False
        _take(saved, timeline, is_whole)
        missing = find_missing(info, timeline, need, spec)
        saver.begin(saved, need.fps_throughout)
        del saved
        if need.fps_throughout > 0 and not timeline.frame_count:
            saver.memory = start_memory(spec, len(missing.frames))
        try:
            encode_missing(info, missing, self.encoders, spec, self.bundle.feature_dtype, saver, progress)
        finally:
            saver.flush()
        if self._lacks_memory(timeline, need):
            memory = _memory_of(timeline, spec) if saver.memory is None else saver.memory
            saver.remember(self.encoders, memory)
        saver.finish(need)
        return len(missing)

    def _lacks_memory(self, timeline: Timeline, need: Need) -> bool:
        if need.fps_throughout <= 0 or timeline.kind != "video":
            return False
        if start_memory(self.bundle.spec, timeline.frame_count) is None:
            return False
        return timeline.remembered is None or not timeline.remembered.is_of(timeline.frame_count)


def _memory_of(timeline: Timeline, spec: ModelSpec) -> Memory:
    memory = start_memory(spec, timeline.frame_count)
    assert memory is not None
    for frame in timeline.frames_in():
        memory.add(frame.time, frame.features)
    return memory


@contextmanager
def _no_traces_of_what_fails(content: Content) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(FileError, OSError):  # which would hide the failure
            remove_traces_unless_saved(content.sha256)
        raise


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


def _check_use(path: Path, kind: str, duration: float, need: Need, spec: ModelSpec) -> None:
    if kind == "audio" and (spec.audio is None or not need.audio):
        why = "sound was switched off" if spec.audio else f"{spec.name} has no audio branch"
        raise MediaError(f"{path}: it has only sound and {why}; use a clip with pictures")
    check_span(need.span, duration)


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
