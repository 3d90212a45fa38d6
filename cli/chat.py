"""`vllama chat`: a conversation about a clip."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vllama.runtime import Chat, Engine, Sampling, Span, SpecError, Timeline, Usage, VllamaError
from vllama.runtime.media import probe, read_frames
from vllama.runtime.times import clock, parse_span
from vllama.runtime.view import Long

from . import options
from .pictures import contact_sheet, strip
from .record import Recorder
from .render import encoding_bar, evidence_line, print_json, print_stream, verifying_bar

_HELP = """/at SPAN QUESTION   ask about a stretch once: /at 0:10-0:15 what happens?
/span SPAN          ask about a stretch from now on: 0:10-0:15, last 30s, all
/frames [FILE.png]  show the frames of the last answer, here or as a picture
/clear              forget what was said
/save FILE          write the conversation to a text file
/help               this
/exit               leave (or Ctrl-D); Ctrl-C stops an answer"""
_FRAME_COLUMNS = 18


def chat(
    video: Annotated[Path, typer.Option("--video", help="A video, a sound file or a picture.")],
    model: options.Model = None,
    as_json: options.AsJson = False,
    fps: Annotated[float, typer.Option(min=0.0, help="Frames per second to encode beside the whole-clip ones.")] = 1.0,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    ctx_size: options.CtxSize = None,
    threads: options.Threads = None,
    audio: options.Audio = True,
    device: options.Device = "cpu",
    long: options.Long = None,
    record: options.Record = None,
) -> None:
    """Talk about a clip. The video stays in the model's memory; each question costs its own words."""
    with verifying_bar() as verifying:
        engine = Engine.open(model, device=device, threads=threads, n_ctx=ctx_size, progress=verifying)
    with engine:
        options.say_if_miniature(engine)
        sampling = options.sampling(engine.spec.llm.sampling, temperature, top_p, top_k, max_tokens)
        with encoding_bar() as encoding:
            timeline = engine.index(video, fps=fps, audio=audio, note=options.note, progress=encoding)
        recorder = Recorder(record, engine, video, timeline, audio=audio) if record else None
        shell = Shell(engine, video, timeline, sampling, seed, long, recorder, audio=audio, as_json=as_json)
        with closing(_lines()) as lines:
            shell.run(lines)


class Shell:
    """Lines in, answers and pictures out; a line that begins with a slash is a command."""

    def __init__(
        self,
        engine: Engine,
        clip: Path,
        timeline: Timeline,
        sampling: Sampling,
        seed: int | None,
        long: Long | None,
        recorder: Recorder | None,
        *,
        audio: bool,
        as_json: bool,
    ) -> None:
        self._engine = engine
        self._clip = clip
        self._timeline = timeline
        self._sampling = sampling
        self._seed = seed
        self._long = long
        self._recorder = recorder
        self._audio = audio
        self._as_json = as_json
        self._chat: Chat = engine.chat(timeline, audio=audio)
        self._span = Span.whole()
        self._last: Usage | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "at": self._at,
            "span": self._set_span,
            "frames": self._frames,
            "clear": self._clear,
            "save": self._save,
            "help": lambda rest: print(_HELP, file=sys.stderr),
        }

    def run(self, lines: Iterator[str]) -> None:
        """Until the lines end or /exit; an error is a line, and the conversation goes on."""
        self._chat.prepare(self._span, long=self._long)
        for line in lines:
            text = line.strip()
            if text in ("/exit", "/quit", "/bye"):
                return
            try:
                if text.startswith("/"):
                    self._command(text[1:])
                elif text:
                    self._ask(text, self._span)
            except VllamaError as error:
                print(f"vllama: {error}", file=sys.stderr)
            except KeyboardInterrupt:
                print("\nstopped", file=sys.stderr)
            self._chat.prepare(self._span, long=self._long)  # while the next question is typed

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        if name not in self._commands:
            raise SpecError(f"there is no command /{name}; /help lists them")
        self._commands[name](rest.strip())

    def _ask(self, question: str, span: Span) -> None:
        # What the rule asks for in a short span may lie between the frames that were encoded.
        self._engine.index(self._clip, fps=0.0, span=span, audio=self._audio, timeline=self._timeline)
        deltas = self._chat.ask(question, span, long=self._long, sampling=self._sampling, seed=self._seed)
        if self._as_json:
            usage = print_json(question, deltas)
        else:
            usage = print_stream(deltas)
            print(evidence_line(usage, self._timeline, self._engine.spec, audio=self._audio), file=sys.stderr)
        self._last = usage
        if self._recorder:
            self._recorder.add(self._chat, question, span, self._long, self._sampling, usage)

    def _at(self, rest: str) -> None:
        words = rest.split()
        for count in (1, 2):  # "0:10-0:15 what" and "last 30s what"
            if words[:1] == ["last"] and count == 1:
                continue
            question = " ".join(words[count:])
            if question:
                self._ask(question, parse_span(" ".join(words[:count])))
                return
        raise SpecError(f"/at {rest}: no question; write /at 0:10-0:15 what happens?")

    def _set_span(self, rest: str) -> None:
        self._span = parse_span(rest)
        print(f"asking about {_spoken(self._span)}", file=sys.stderr)

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

    def _clear(self, rest: str) -> None:
        self._chat.clear()
        self._last = None

    def _save(self, rest: str) -> None:
        if not rest:
            raise SpecError("/save needs a file; write /save talk.txt")
        text = "\n\n".join(f"> {turn.question}\n{turn.answer}" for turn in self._chat.turns)
        try:
            with Path(rest).open("x", encoding="utf-8") as file:
                file.write(f"{self._clip.name}, {self._engine.spec.name}\n\n{text}\n")
        except OSError as error:
            raise SpecError(f"{rest}: {error.strerror}; give a new file") from error
        print(f"wrote {rest}", file=sys.stderr)


def _spoken(span: Span) -> str:
    if span == Span.whole():
        return "the whole clip"
    if span.start < 0:
        return f"the last {-span.start:g} s"
    return f"{clock(span.start)} to {'the end' if span.end == float('inf') else clock(span.end)}"


def _lines() -> Generator[str, None, None]:
    """What is typed, with history and line editing; or the lines of a pipe."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    from prompt_toolkit import PromptSession  # not needed for pipes, and slow to import
    from prompt_toolkit.output import create_output

    session: PromptSession[str] = PromptSession(output=create_output(stdout=sys.stderr))
    print("/help lists the commands", file=sys.stderr)
    while True:
        try:
            yield session.prompt("> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
