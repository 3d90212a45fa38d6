"""The owner of every native handle: opens a bundle, encodes clips, holds conversations."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from .backbone import Backbone
from .bundle import Bundle, cache_dir, find_bundle, hash_file, open_bundle
from .chat import Chat
from .encoders import Encoders
from .errors import FileError, MediaError
from .indexing import index_file
from .media import probe
from .spec import ModelSpec
from .timeline import Timeline


class Engine:
    """An open model. Use it in a `with` block, or `close` it."""

    def __init__(
        self, bundle: Bundle, *, device: str = "cpu", threads: int | None = None, n_ctx: int | None = None
    ) -> None:
        self.bundle = bundle
        threads = threads or os.cpu_count() or 1
        # A bundle without any rounding is the reference, and its cache and features are not rounded either.
        exact = bundle.manifest.precision["llm"] == "F32"
        self._dtype = "float32" if bundle.manifest.precision["frames"] == "fp32" else "float16"
        self._encoders = Encoders(bundle, device, threads)
        self._backbone = Backbone(bundle.llm, n_ctx or bundle.spec.llm.n_ctx, threads=threads, reference=exact)

    @classmethod
    def open(
        cls,
        model: str | Path | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        n_ctx: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Engine:
        """Open a bundle, verified.

        Args:
            model: its name or its folder; None: the only one there is.
            device: "cpu" or "cuda", for the encoders.
            threads: CPU threads; None: all cores.
            n_ctx: positions of the context; None: the model's.
            progress: (bytes hashed, bytes to hash), when files are verified for the first time.

        Raises:
            ModelNotFoundError, FileError: there is no such bundle, or it is not whole.
            BackendError: a part cannot run here.
        """
        return cls(open_bundle(find_bundle(model), progress), device=device, threads=threads, n_ctx=n_ctx)

    @property
    def spec(self) -> ModelSpec:
        """The model's entry."""
        return self.bundle.spec

    def index(
        self,
        path: str | Path,
        *,
        fps: float = 1.0,
        audio: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> Timeline:
        """Encode a video, a sound file or a picture; each clip once, then the saved timeline is found.

        Args:
            path: the file.
            fps: pictures per second beside those of the whole-clip rule; 0 encodes only these and saves nothing.
            audio: False leaves the sound out (and saves nothing).
            progress: (encoded, to encode).

        Raises:
            MediaError: it cannot be decoded, or this model cannot use it.
        """
        path = Path(path)
        info = probe(path)
        if info.kind == "audio" and (self.spec.audio is None or not audio):
            why = "sound was switched off" if self.spec.audio else f"{self.spec.name} has no audio branch"
            raise MediaError(f"{path}: it has only sound and {why}; use a clip with pictures")
        content = hash_file(path).sha256
        saved = cache_dir() / "timelines" / f"{content[:32]}-{self.bundle.encoders_hash[:16]}.safetensors"
        if audio and (timeline := self._saved(saved, content, fps)):
            return timeline
        timeline = Timeline(
            model=self.bundle.encoders_hash,
            content=content,
            kind=info.kind,
            length=len(info.frame_times),
            duration=info.duration,
            frame_rate=info.frame_rate,
            sound=info.has_audio,
            fps=fps,
        )
        index_file(info, timeline, self._encoders, self.spec, self._dtype, audio=audio, progress=progress)
        if fps > 0 and audio:
            timeline.save(saved)
        return timeline

    def chat(self, timeline: Timeline, *, audio: bool = True) -> Chat:
        """A conversation about a timeline of this model; audio False does not listen.

        Raises:
            FileError: the timeline was made by other encoders.
        """
        if timeline.model != self.bundle.encoders_hash:
            raise FileError(
                f"the timeline was made by encoders {timeline.model[:8]}.., not {self.bundle.encoders_hash[:8]}..; "
                f"index the clip with {self.spec.name}"
            )
        return Chat(timeline, self.spec, self._encoders, self._backbone, audio=audio)

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        self._encoders.close()
        self._backbone.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _saved(self, path: Path, content: str, fps: float) -> Timeline | None:
        if not path.is_file():
            return None
        try:
            timeline = Timeline.load(path)
        except FileError:
            path.unlink()  # a cache entry that cannot be read is worth no more than none: it is made again
            return None
        whole = timeline.model == self.bundle.encoders_hash and timeline.content == content
        return timeline if whole and timeline.fps >= fps else None
