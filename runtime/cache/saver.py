"""What comes of a clip: added to its timeline and, chunk by chunk, saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..bundle import Bundle
from ..encoders import Encoders
from ..errors import FileError, MediaError
from ..indexing import Need
from ..memory import Memory
from ..remembered import remembered, write_remembered
from ..timeline import ClipFeature, FrameFeature, Timeline
from .content import Content
from .saved import SCHEMA, About, Rows, Saved, share
from .store import Store

_CHUNK_FEATURES = 32
_CHUNK_SECONDS = 5.0  # of work that a crash may cost
_MOST_CHUNKS = 8  # small ones, before they are merged
Note = Callable[[str], None]


class Saver:
    """Adds what comes to a timeline and to its store.

    Attributes:
        store: None where nothing can be saved.
        memory: of all that comes, where nothing was there before.
        shared: pictures that came with the features of another one.
    """

    def __init__(self, timeline: Timeline, content: Content, bundle: Bundle, must_save: bool, note: Note) -> None:
        """note: told in one line what cannot be saved, where `must_save` does not make it an error."""
        self.timeline = timeline
        self.note = note
        self.store: Store | None = None
        self.memory: Memory | None = None
        self.shared = 0
        self._content = content
        self._bundle = bundle
        self._must_save = must_save
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

    def remember(self, encoders: Encoders, memory: Memory) -> None:
        """Read the whole of it now, for all questions about the whole of it."""
        merged = memory.frames()
        embeds = encoders.video_embeds(merged.features).data
        self.timeline.remembered = whole = remembered(merged, self.timeline.frame_count, embeds)
        if self.store is not None:
            try:
                write_remembered(self.store.folder, remembered_of(self._content, self._bundle), whole)
            except OSError as error:
                self.note(f"{self.store.folder}: {error.strerror}; the first question about all of it takes longer")

    def finish(self, need: Need) -> None:
        """All that was needed is there."""
        self._check()
        fps = need.fps_throughout
        self.timeline.fps = max(self.timeline.fps, fps)
        self.timeline.listened |= fps > 0 and need.audio
        self._wanted_fps = self.timeline.fps if fps > 0 else self._wanted_fps
        if self.store is not None:
            try:
                self._keep_merged(self.store.compact(1 if fps > 0 else _MOST_CHUNKS))
            except FileError as error:
                self.note(f"{error} (its features are saved, in more files than needed)")
        self._describe()  # last: what says that all is there is never read again to merge it
        there = (self.timeline.frame_count, self.timeline.clip_count)
        self.timeline.saved = self.store is not None and (len(self._saved_frames), self._saved_clips) == there

    def give_up(self, error: FileError) -> None:
        """Go on without saving, or not at all where saving is the point."""
        if self._must_save:
            raise error
        self.store = None
        self.note(f"not saved: {error}")

    def _describe(self) -> None:
        if self.store is None:
            return
        timeline, content = self.timeline, self._content
        about = About(
            schema=SCHEMA, model=timeline.model, content=timeline.content, kind=timeline.kind, length=timeline.length,
            duration=timeline.duration, frame_rate=timeline.frame_rate, sound=timeline.sound, samples=timeline.samples,
            fps=timeline.fps, listened=timeline.listened, wanted_fps=max(self._wanted_fps, timeline.fps),
            frames=len(self._saved_frames), clips=self._saved_clips, model_name=self._bundle.spec.name,
            path=str(content.path.resolve()), file_bytes=content.bytes, mtime_ns=content.mtime_ns,
        )  # fmt: skip
        try:
            self.store.describe(about)
        except FileError as error:
            self.give_up(error)

    def _show(self, frames: Sequence[FrameFeature], clips: Sequence[ClipFeature], whole: Sequence[ClipFeature]) -> None:
        for frame in frames:
            self.timeline.add_frame(frame)
        for clip in clips:
            self.timeline.add_clip(clip)
        if whole:
            self.timeline.replace_whole_clips(tuple(whole))

    def _keep_merged(self, merged: Rows | None) -> None:
        if merged is not None:
            self._map(merged)

    def _map(self, saved: Rows) -> None:
        """Show the same from disk, so that neither memory grows nor a file that was merged stays open."""
        self._show(saved.frames, saved.clips, saved.whole)
        for shared in saved.shared:
            own, shown = self.timeline.frame(shared.of), self.timeline.frame(shared.index)
            if own is not None and shown is not None and shown.of == own.index:
                self.timeline.add_frame(share(shared, own))

    def _check(self) -> None:
        try:
            self._content.check()
        except MediaError:
            if self.store is not None:
                self.store.undo()
            raise


def remembered_of(content: Content, bundle: Bundle) -> dict[str, object]:
    """What a saved memory of the whole has to say that it is of."""
    return {"content": content.sha256, "model": bundle.encoders_hash, "video": bundle.video_hash}
