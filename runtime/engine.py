"""The owner of every native handle: opens a bundle, encodes clips, holds conversations."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from .backbone import Backbone
from .bundle import Bundle, cache_dir, find_bundle, open_bundle
from .chat import Chat
from .encoders import Encoders
from .errors import FileError, SpecError
from .indexing import Need
from .library import index_clip
from .prefixes import PrefixStore
from .spec import ModelSpec
from .timeline import Timeline
from .types import Span


class Engine:
    """An open model. Use it in a `with` block, or `close` it."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        threads: int | None = None,
        n_ctx: int | None = None,
        answers: bool = True,
    ) -> None:
        self.bundle = bundle
        threads = threads or os.cpu_count() or 1
        # A bundle without any rounding is the reference, and its cache and features are not rounded either.
        exact = bundle.manifest.precision["llm"] == "F32"
        self._dtype = "float32" if bundle.manifest.precision["frames"] == "fp32" else "float16"
        self._encoders = Encoders(bundle, device, threads)
        self._backbone: Backbone | None = None
        if answers:
            self._backbone = Backbone(bundle.llm, n_ctx or bundle.spec.llm.n_ctx, threads=threads, reference=exact)

    @classmethod
    def open(
        cls,
        model: str | Path | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        n_ctx: int | None = None,
        answers: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> Engine:
        """Open a bundle, verified.

        Args:
            model: its name or its folder; None: the only one there is.
            device: "cpu" or "cuda", for the encoders.
            threads: CPU threads; None: all cores.
            n_ctx: positions of the context; None: the model's.
            answers: False does not open the LLM: such an engine indexes, and has no conversations.
            progress: (bytes hashed, bytes to hash), when files are verified for the first time.

        Raises:
            ModelNotFoundError, FileError: there is no such bundle, or it is not whole.
            BackendError: a part cannot run here.
        """
        bundle = open_bundle(find_bundle(model), progress)
        return cls(bundle, device=device, threads=threads, n_ctx=n_ctx, answers=answers)

    @property
    def spec(self) -> ModelSpec:
        """The model's entry."""
        return self.bundle.spec

    def index(
        self,
        path: str | Path,
        *,
        fps: float = 1.0,
        span: Span | None = None,
        audio: bool = True,
        timeline: Timeline | None = None,
        must_save: bool = False,
        note: Callable[[str], None] = lambda text: None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Timeline:
        """Encode a video, a sound file or a picture, as far as that was not done before.

        Every feature is saved in the user's cache as it is made, and found there by the content of the file.

        Args:
            path: the file.
            fps: pictures per second beside those of the whole-clip rule, and all of the sound; 0: only what the rule
                asks for.
            span: seconds a question will be about: what the rule asks for there is encoded too.
            audio: False leaves the sound out.
            timeline: one that an earlier call gave for this file; it is extended and returned.
            must_save: a cache that cannot be written is an error, not a note.
            note: told, in one line, what a person should know: what was found damaged, what cannot be saved.
            progress: (encoded, to encode); not called if nothing is left to encode.

        Raises:
            MediaError: it cannot be decoded, was changed meanwhile, or this model cannot use it.
            FileError: it cannot be saved and must be; timeline is of another file.
        """
        need = Need(fps, None if span == Span.whole() else span, audio)
        return index_clip(
            Path(path), need, self.bundle, self._encoders, self._dtype,
            timeline=timeline, must_save=must_save, note=note, progress=progress,
        )  # fmt: skip

    def chat(self, timeline: Timeline, *, audio: bool = True) -> Chat:
        """A conversation about a timeline of this model; audio False does not listen.

        Raises:
            FileError: the timeline was made by other encoders.
            SpecError: the engine was opened to index only.
        """
        if timeline.model != self.bundle.encoders_hash:
            raise FileError(
                f"the timeline was made by encoders {timeline.model[:8]}.., not {self.bundle.encoders_hash[:8]}..; "
                f"index the clip with {self.spec.name}"
            )
        if self._backbone is None:
            raise SpecError("this engine was opened with answers=False, to index only; open another one")
        llm = self.bundle.manifest.files[self.bundle.manifest.llm].sha256
        prefixes = PrefixStore(cache_dir() / "prefixes", f"{llm} {self._backbone.settings}")
        return Chat(timeline, self.spec, self._encoders, self._backbone, prefixes, audio=audio)

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        self._encoders.close()
        if self._backbone is not None:
            self._backbone.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
