"""`vllama chat`: a conversation about a clip, or about what camera and microphone give."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vllama.runtime import Engine, Span, SpecError, Timeline, Usage
from vllama.runtime.media import probe, read_frames
from vllama.runtime.times import clock, parse_span

from . import options
from .live import talk_live
from .newfile import JsonLines
from .pictures import contact_sheet, strip
from .record import Recorder
from .render import encoding_bar, evidence_line, print_json, print_stream
from .shell import Asking, Shell
from .spoken import Ears, Speech
from .terminal import Terminal

_FRAME_COLUMNS = 18


def chat(
    video: Annotated[
        Path | None,
        typer.Option("--video", parser=options.clip, metavar="<path>", help="A video, a sound file or a picture."),
    ] = None,
    webcam: options.Webcam = None,
    mic: options.Mic = None,
    window: options.Window = None,
    memory: options.Memory = None,
    model: options.Model = None,
    as_json: options.AsJson = False,
    fps: Annotated[
        float | None,
        typer.Option(min=0.0, help="Frames per second: of a clip beside the whole-clip ones (1), of a camera (4)."),
    ] = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    ctx_size: options.CtxSize = None,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = "auto",
    kv: options.KvCache = None,
    audio: options.Audio = True,
    device: options.Device = "auto",
    runner: options.Runner = "auto",
    long: options.Long = None,
    summarise: options.Summarise = False,
    record: options.Record = None,
    speech: options.Speech = False,
    speech_model: options.SpeechModel = None,
    speech_language: options.SpeechLanguage = None,
    aloud: options.Aloud = False,
    headphones: options.Headphones = False,
) -> None:
    """Talk about a clip, or about what camera and microphone see and hear.

    It stays in the model's memory; each question costs its own words.
    """
    live = options.live(webcam, mic, window, memory, fps)
    if video is None and live is None:
        raise SpecError("there is nothing to talk about; give --video FILE, --webcam SOURCE or --mic DEVICE")
    if live is not None and (video is not None or record is not None or summarise):
        other = "--video" if video is not None else "--record" if record is not None else "--summarise"
        raise SpecError(f"{other} cannot stand beside --webcam or --mic; leave one of them out")
    if record is not None and summarise:
        raise SpecError("--record cannot stand beside --summarise, which no replay repeats; leave one of them out")
    of_live = {
        "--window": window, "--memory": memory, "--speech": speech, "--speech-language": speech_language,
        "--aloud": aloud, "--headphones": headphones,
    }  # fmt: skip
    if live is None and (given := next((name for name, value in of_live.items() if value not in (None, False)), None)):
        raise SpecError(f"{given} is for --webcam and --mic; leave it out")
    drawing = options.SamplingOptions(temperature, top_p, top_k, max_tokens)
    lines = JsonLines(record) if record else None
    ears = Ears(
        Speech(speech_model, speech_language, speech, aloud, headphones),
        microphone=mic is not None,
    )
    with options.open_engine(model, device, runner, threads, gpu_layers, kv, ctx_size) as engine:
        options.say_if_miniature(engine)
        asking = Asking(drawing.over(engine.spec.llm.sampling), seed, long, audio, as_json, summarise)
        if live is not None:
            talk_live(engine, live, asking, ears)
        elif video is not None:
            _talk_of_clip(engine, video, 1.0 if fps is None else fps, asking, lines)


def _talk_of_clip(engine: Engine, video: Path, fps: float, asking: Asking, lines: JsonLines | None) -> None:
    note = functools.cache(options.note)  # what is so at every question is said once
    with encoding_bar() as encoding:
        timeline = engine.index(video, fps=fps, audio=asking.audio, note=note, progress=encoding)
    recorder = Recorder(lines, engine, video, timeline, audio=asking.audio) if lines else None
    shell = ClipShell(engine, video, timeline, asking, recorder, note)
    with closing(Terminal().lines()) as typed:
        shell.run(typed)


class ClipShell(Shell):
    """A conversation about a file."""

    def __init__(
        self,
        engine: Engine,
        clip: Path,
        timeline: Timeline,
        asking: Asking,
        recorder: Recorder | None,
        note: Callable[[str], None],
    ) -> None:
        super().__init__(engine.chat(timeline, audio=asking.audio, summarise=asking.summarise))
        self._engine = engine
        self._clip = clip
        self._timeline = timeline
        self._asking = asking
        self._recorder = recorder
        self._note = note
        self._last: Usage | None = None
        self.commands["frames"] = self._frames
        self.help = {
            "/at SPAN QUESTION": "ask about a stretch or a moment, once: /at 0:10-0:15 what happens?",
            "/span SPAN": "ask about it from now on: 0:10-0:15, 0:10, last 30s, all",
            "/frames [FILE.png]": "show the frames of the last answer, here or as a picture",
            **self.help,
        }

    @property
    def heading(self) -> str:
        return f"{self._clip.name}, {self._engine.spec.name}"

    def read_span(self, text: str) -> Span:
        return parse_span(text)

    def spoken(self, span: Span) -> str:
        if span == Span.whole():
            return "the whole clip"
        if span.is_moment:
            return f"{clock(span.start)} and what led up to it"
        if span.start < 0:
            return f"the last {-span.start:g} s"
        return f"{clock(span.start)} to {'the end' if span.end == float('inf') else clock(span.end)}"

    def prepare(self) -> None:
        self.chat.prepare(self.span, long=self._asking.long)

    def clear(self) -> None:
        super().clear()
        self._last = None
        if self._recorder:
            self._recorder.clear()

    def ask(self, question: str, span: Span) -> None:
        asking = self._asking
        # What the rule asks for in a short span may lie between the frames that were encoded.
        self._engine.index(self._clip, fps=0.0, span=span, audio=asking.audio, timeline=self._timeline, note=self._note)
        try:
            deltas = self.chat.ask(question, span, long=asking.long, sampling=asking.sampling, seed=asking.seed)
            with closing(deltas):
                usage = print_json(question, deltas) if asking.as_json else print_stream(deltas)
            if not asking.as_json:
                print(evidence_line(usage, self._timeline, self._engine.spec, audio=asking.audio), file=sys.stderr)
            self._last = usage
            if self._recorder:
                self._recorder.add(self.chat, question, span, asking.long, asking.sampling, usage)
        except KeyboardInterrupt:
            if self._recorder:
                self._recorder.end()
                self._note("the record ends before the answer that was stopped, which no replay can stop there")
            raise

    def _frames(self, rest: str) -> None:
        if self._last is None or not self._last.frame_times:
            raise SpecError("no answer yet rests on frames; ask something about the picture first")
        info = probe(self._clip)
        wanted = [int(abs(info.frame_times - time).argmin()) for time in self._last.frame_times]
        frames = list(read_frames(info, sorted(set(wanted)), 224))
        if rest:
            contact_sheet(frames, Path(rest))
            print(f"wrote {rest}", file=sys.stderr)
        else:
            Console(stderr=True).print(strip(frames, _FRAME_COLUMNS))
