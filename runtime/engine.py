"""The owner of every native handle: opens a bundle, encodes clips, holds conversations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, get_args, overload

from .bundle import Bundle, find_bundle, open_bundle
from .cache.library import Library
from .cache.prefixes import PrefixStore, prefixes_dir
from .capture.clock import Clock
from .chat import Chat
from .encoders import Encoders
from .errors import FileError, SpecError
from .indexing import Need
from .live.live import Live
from .live.live_chat import LiveChat
from .live.senses import FRAME_RATE, PictureSource, SoundSource
from .live.watching import YesNo
from .llm.backbone import Backbone, check_limits
from .llm.devices import gpu_memory
from .llm.llama_context import Kv
from .llm.llm_file import read_llm_facts
from .machine import physical_cores
from .placement import place
from .plan import encoders_gpu_bytes, graph_needs, layers_that_fit, usable_bytes
from .seen import see_pictures
from .spec import ModelSpec
from .timeline import Budget, Timeline
from .types import Frame, Span, shown

MEMORY_BYTES = 256_000_000  # of a live source's features, where nothing else is asked for
_MOST_FPS = 60.0  # of a camera
DENSEST_FPS = 1000.0  # of a file: no clip has more to show
GpuLayers = int | Literal["auto", "all"]


class Engine:
    """An open model. Use it in a `with` block, or `close` it.

    One thread at a time uses an engine and its conversations, which have one language model between them: they may take
    turns, and the next question ends an answer of another one that is still running. While a piece of an answer is made
    other threads get a BackendError; for whole answers hold a lock of your own, or open one engine per thread.
    `Chat.cancel` and `close` may come from any thread. An engine does not live through a fork: there `close` does
    nothing, and whatever else needs it raises a BackendError.

    Attributes:
        bundle: what it was opened from.
        placement: where its encoders run.
        kv: how the language model's KV cache is stored.
        n_ctx: positions of the language model's context.
        gpu_layers: of the language model, on the GPU, the output counted as one; 0 where it is not open.

    Raises: as `open`.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        runner: str = "auto",
        threads: int | None = None,
        n_ctx: int | None = None,
        gpu_layers: GpuLayers = "auto",
        kv: Kv | None = None,
        answers: bool = True,
    ) -> None:
        _check_settings(threads, n_ctx, gpu_layers, kv)
        self.bundle = bundle
        self.placement = place(bundle, device, runner)
        self._threads = threads = threads or physical_cores()
        self.kv: Kv = kv or bundle.kv
        self.n_ctx = n_ctx or bundle.spec.llm.n_ctx
        self.gpu_layers = 0
        self._encoders = Encoders(bundle, self.placement, threads)
        self._library = Library(bundle, self._encoders)
        self._backbone: Backbone | None = None
        if answers:
            self.gpu_layers = _layers(gpu_layers, bundle, self.n_ctx, self.kv, self.placement.device)
            self._backbone = Backbone(bundle.llm, self.n_ctx, threads=threads, gpu_layers=self.gpu_layers, kv=self.kv)

    @classmethod
    def open(
        cls,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        runner: str = "auto",
        threads: int | None = None,
        n_ctx: int | None = None,
        gpu_layers: GpuLayers = "auto",
        kv: Kv | None = None,
        answers: bool = True,
        note: Callable[[str], None] = lambda text: None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Engine:
        """Open a bundle, verified.

        Args:
            model: its name or its folder; None: the only one that was exported, or the miniature where none was.
            device: for the encoders, "cpu", "cuda" or "cuda:N"; "auto": a GPU where they can run on it.
            runner: "onnx" or "tensorrt"; "auto": on a GPU the bundle's engines where they can run, else ONNX Runtime.
            threads: CPU threads; None: one per physical core.
            n_ctx: positions of the context; None: the model's.
            gpu_layers: how much of the language model is on the GPU, the output as one layer; "auto": as much as fits
                the memory that is free beside the encoders, nothing where llama.cpp has no GPU.
            kv: how its KV cache is stored; None: as `Bundle.kv`.
            answers: False does not open the LLM: such an engine indexes, and has no conversations.
            note: told in one line where the encoders run and why, where there is a GPU or one was asked for.
            progress: (bytes hashed, bytes to hash), when files are verified for the first time.

        Raises:
            ModelNotFoundError, FileError: there is no such bundle, or it is not whole.
            SpecError: one of the others is no such thing, or out of range.
            BackendError: a part cannot run here.
        """
        bundle = open_bundle(find_bundle(model), progress)
        engine = cls(
            bundle, device=device, runner=runner, threads=threads, n_ctx=n_ctx, gpu_layers=gpu_layers, kv=kv,
            answers=answers,
        )  # fmt: skip
        if engine.placement.says:
            note(engine.placement.says)
        return engine

    @property
    def spec(self) -> ModelSpec:
        """The model's entry."""
        return self.bundle.spec

    @property
    def encoders(self) -> Encoders:
        """What runs the graphs, to be measured by itself; it is closed with this."""
        return self._encoders

    @property
    def backbone(self) -> Backbone:
        """The language model, to be measured by itself; it is closed with this.

        Raises:
            SpecError: the engine was opened to index only.
        """
        if self._backbone is None:
            raise SpecError("this engine was opened with answers=False, to index only; open another one")
        return self._backbone

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
                asks for, which of a span may be nothing.
            span: seconds a question will be about: what the rule asks for there is encoded too. Of a moment no more
                than a question about it can use: the sound around it, and the pictures there or, with fps above 0, all
                that led up to it.
            audio: False leaves the sound out.
            timeline: one that an earlier call gave for this file; it is extended and returned.
            must_save: a cache that cannot be written is an error, not a note.
            note: told, in one line, what a person should know: what was found damaged, what cannot be saved.
            progress: (encoded, to encode); not called if nothing is left to encode.

        Raises:
            SpecError: fps is out of range, or the clip ends before the span begins.
            MediaError: it cannot be decoded, was changed meanwhile, or this model cannot use it.
            FileError: it cannot be saved and must be; timeline is of another file.
        """
        if not 0.0 <= fps <= DENSEST_FPS:
            raise SpecError(f"fps is {shown(fps)}; use 0 to {DENSEST_FPS:g}")
        need = Need(fps, None if span == Span.whole() else span, audio)
        return self._library.index(
            Path(path), need, timeline=timeline, must_save=must_save, note=note, progress=progress
        )

    def see(self, frames: Iterable[Frame]) -> Timeline:
        """Encode pictures that are in memory, each of them; nothing is saved. A single one is a picture, more a video.

        Args:
            frames: at least one. pixels: uint8 (h, w, 3), RGB, of any size; they are stretched to the model's as those
                of a picture file are. time: seconds, 0 or more, later than that of the one before. They are numbered as
                they come: index is not looked at.

        Raises:
            ShapeError: a picture is not so.
            SpecError: there is none, or a time is not so.
            BackendError: a part failed, or the engine was closed.
        """
        return see_pictures(frames, self.bundle, self._encoders)

    def watch(
        self,
        *,
        camera: str | int | None = None,
        microphone: str | int | None = None,
        budget: Budget | None = None,
        fps: float = 4.0,
        note: Callable[[str], None] = lambda text: None,
    ) -> Live:
        """See and hear in the background, into a timeline, until the result is closed; nothing is written to a disk.

        Args:
            camera: a number, a name, a device, a file or the address of a stream; None: do not see.
            microphone: a number or a name; None: do not hear.
            budget: how much of the past is kept; None: 256 MB of features, the older the sparser.
            fps: pictures per second, where the machine can hold it. A question looks at 8 of them.
            note: told in one line what a person should know: a source that was lost, or came back.

        Raises:
            SpecError: neither camera nor microphone, no useful fps, or a model that cannot hear.
            DeviceError: the camera or the microphone cannot be opened.
            BackendError: the engine was closed.
        """
        self._check_live(camera, microphone, fps)  # before a device is opened
        clock = Clock()
        with ExitStack() as opened:
            eye: PictureSource | None = None
            ear: SoundSource | None = None
            if camera is not None:
                from .capture.camera import Camera  # OpenCV is slow to load, and not everybody has a camera

                eye = Camera(str(camera), self.spec.video.image_size, clock, note)
                opened.callback(eye.close)
            if microphone is not None:
                from .capture.microphone import Microphone  # PortAudio may not be installed

                assert self.spec.audio is not None
                ear = Microphone(str(microphone), self.spec.audio.sample_rate, clock, note)
                opened.callback(ear.close)
            live = self.follow(eye, ear, clock, budget=budget, fps=fps, note=note)
            opened.pop_all()
        return live

    def follow(
        self,
        camera: PictureSource | None,
        microphone: SoundSource | None,
        clock: Clock,
        *,
        budget: Budget | None = None,
        fps: float = 4.0,
        note: Callable[[str], None] = lambda text: None,
    ) -> Live:
        """As `watch`, with sources of one's own on one clock; they are closed with the result.

        Raises:
            SpecError, BackendError: as `watch`; the sources stay open.
        """
        self._check_live(camera, microphone, fps)
        timeline = Timeline(
            self.bundle.encoders_hash, "", "audio" if camera is None else "video", 0, 0.0, FRAME_RATE,
            sound=microphone is not None, live=True, budget=budget or Budget(bytes=MEMORY_BYTES),
        )  # fmt: skip
        encoders = Encoders(self.bundle, self.placement, max(1, self._threads // 2))
        backbone = self._backbone
        return Live(
            timeline, encoders, self.spec, clock, camera=camera, microphone=microphone, fps=fps,
            dtype=self.bundle.feature_dtype, answers=lambda: backbone is not None and backbone.answers, note=note,
        )  # fmt: skip

    @overload
    def chat(self, timeline: Live, *, audio: bool = True) -> LiveChat: ...

    @overload
    def chat(self, timeline: Timeline, *, audio: bool = True, summarise: bool = False) -> Chat: ...

    def chat(self, timeline: Timeline | Live, *, audio: bool = True, summarise: bool = False) -> Chat:
        """A conversation about a timeline of this model, a `LiveChat` if it is live.

        Args:
            timeline: what `index` or `watch` gave.
            audio: False does not listen.
            summarise: when the context is full, a summary by the model takes the place of what was said, instead of
                the oldest turns being left out.

        Raises:
            FileError: the timeline was made by other encoders.
            SpecError: the engine was opened to index only, or a live conversation is to be summarised.
            BackendError: the engine was closed.
        """
        timeline, backbone = self._answering(timeline)
        if timeline.live and summarise:
            raise SpecError("a live conversation remembers one turn, and summarise is True; leave it out")
        self._encoders.release()  # what is encoded now is what the conversation is about
        llm = self.bundle.manifest.files[self.bundle.manifest.llm].sha256
        prefixes = PrefixStore(prefixes_dir(), f"{llm} {backbone.settings}", timeline.content)
        kind = LiveChat if timeline.live else Chat
        return kind(timeline, self.spec, self._encoders, backbone, prefixes, audio=audio, summarise=summarise)

    def yes_no(self, question: str, timeline: Timeline | Live, *, audio: bool = True) -> YesNo:
        """A yes or no question, to be asked of a timeline again and again.

        Args: as `chat`.

        Raises: as `chat`, and as `YesNo`.
        """
        timeline, backbone = self._answering(timeline)
        return YesNo(question, timeline, self.spec, self._encoders, backbone, audio=audio)

    def _answering(self, source: Timeline | Live) -> tuple[Timeline, Backbone]:
        timeline = source.timeline if isinstance(source, Live) else source
        if timeline.model != self.bundle.encoders_hash:
            raise FileError(
                f"the timeline was made by encoders {timeline.model[:8]}.., not {self.bundle.encoders_hash[:8]}..; "
                f"index the clip with {self.spec.name}"
            )
        self.backbone.check_open()
        return timeline, self.backbone

    def _check_live(self, camera: object, microphone: object, fps: float) -> None:
        if camera is None and microphone is None:
            raise SpecError("there is neither camera nor microphone; give one")
        if not 0.0 < fps <= _MOST_FPS:
            raise SpecError(f"fps is {shown(fps)}; use more than 0, and at most {_MOST_FPS:g}")
        if microphone is not None and self.spec.audio is None:
            raise SpecError(f"{self.spec.name} has no audio branch and cannot hear; leave the microphone out")
        self._encoders.check_open()

    def close(self) -> None:
        """Give everything back; a second call does nothing. What needs it then raises a BackendError.

        An answer that another thread is reading ends, and is waited for.

        Raises:
            BackendError: a part failed, perhaps while it read what was prepared; all others are closed.
        """
        with ExitStack() as stack:
            stack.callback(self._encoders.close)
            if self._backbone is not None:
                self._backbone.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _check_settings(threads: int | None, n_ctx: int | None, gpu_layers: GpuLayers, kv: Kv | None) -> None:
    check_limits(n_ctx, threads)
    if gpu_layers not in ("auto", "all") and not (isinstance(gpu_layers, int) and gpu_layers >= 0):
        raise SpecError(f"gpu_layers is {gpu_layers!r}; use 'auto', 'all', or a number from 0 on")
    if kv is not None and kv not in get_args(Kv):
        raise SpecError(f"kv is {kv!r}; use {', '.join(get_args(Kv))}")


def _layers(asked: GpuLayers, bundle: Bundle, n_ctx: int, kv: Kv, device: str) -> int:
    """How many, as `Engine.gpu_layers` counts them."""
    if asked == 0:
        return 0
    if asked == "auto":
        gpus = gpu_memory()
        if not gpus:
            return 0
        encoders = 0 if device == "cpu" else encoders_gpu_bytes(graph_needs(bundle))
        return layers_that_fit(read_llm_facts(bundle.llm), n_ctx, kv, usable_bytes(gpus, started=True) - encoders)
    most = len(read_llm_facts(bundle.llm).blocks) + 1
    return most if asked == "all" else min(asked, most)
