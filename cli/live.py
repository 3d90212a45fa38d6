"""The live half of `vllama chat`: a conversation about what is seen and heard now, and was in the past minutes."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path

from vllama.runtime import Engine, Live, LiveChat, LiveStatus, SourceStatus, Span, SpecError
from vllama.runtime.live.daytime import parse_live_span, time_of_day
from vllama.runtime.live.live import Sense
from vllama.runtime.live.read_ahead import ReadAhead
from vllama.runtime.times import clock

from .entered import EnteredLines
from .options import Sources
from .pictures import write_picture
from .render import live_evidence_line, print_json, print_stream
from .shell import Asking, Shell
from .spoken import Ears, Spoken
from .terminal import Terminal

_FIRST_SECONDS = 30.0  # at most, that the first question waits for something to see and hear
_RESUME_SECONDS = 3.0  # at most, until a device is open again
_POLL_SECONDS = 0.05
_NAME = 28  # characters of a source in the status line: the address of a stream is long
_NAMED: dict[str, Sense] = {"camera": "camera", "webcam": "camera", "mic": "microphone", "microphone": "microphone"}


def talk_live(engine: Engine, sources: Sources, asking: Asking, ears: Ears) -> None:
    """Follow the sources, and talk about them until the lines end."""
    shown: list[LiveShell] = []
    entered = EnteredLines(expected=ears.speech.hands_free)
    terminal = Terminal(
        status=lambda: shown[0].status_line if shown else "",
        title=lambda: shown[0].title if shown else "",
        typing=lambda: shown[0].typing() if shown else None,
        entered=entered,
    )
    with (
        engine.watch(
            camera=sources.camera, microphone=sources.microphone, budget=sources.budget, fps=sources.fps,
            note=terminal.note,
        ) as live,
        ReadAhead(_conversation(engine, live, asking, sources.window), asking.long) as ahead,
        Spoken(ears, live, entered, typing=ahead.typing, note=terminal.note) as spoken,
        closing(terminal.lines()) as lines,
    ):  # fmt: skip
        shell = LiveShell(engine, live, ahead, terminal, sources, asking, spoken)
        shown.append(shell)
        shell.run(spoken.lines(lines))


def _conversation(engine: Engine, live: Live, asking: Asking, window: Span) -> LiveChat:
    chat = engine.chat(live, audio=asking.audio)
    chat.window = window
    return chat


class LiveShell(Shell):
    """A conversation about camera and microphone."""

    def __init__(
        self,
        engine: Engine,
        live: Live,
        ahead: ReadAhead,
        terminal: Terminal,
        sources: Sources,
        asking: Asking,
        spoken: Spoken,
    ) -> None:
        super().__init__(ahead.chat)
        self._engine = engine
        self._live = live
        self._ahead = ahead
        self._terminal = terminal
        self._sources = sources
        self._asking = asking
        self._spoken = spoken
        self._asked_at: list[str] = []
        self.span = sources.window
        self.commands |= {
            "pause": lambda rest: self._switch(rest, on=False),
            "resume": lambda rest: self._switch(rest, on=True),
            "forget": self._forget,
            "snapshot": self._snapshot,
            "status": lambda rest: print(self.status_line, file=sys.stderr),
        }
        self.help = {
            "/at TIME QUESTION": "ask about a time once: /at 14:05 what happened? or 14:05-14:06, 14:05:30, last 1m",
            "/span TIME": "ask about another time from now on: last 30s, 14:05-14:06, all",
            "/status": "what is on, what is seen and kept",
            "/pause [camera|mic]": "close the device; /resume [camera|mic] opens it again",
            "/forget [TIME]": "give up what was seen and heard, all of it or of that time, and what was said",
            "/snapshot FILE.png": "write what the camera sees now",
            **spoken.help,
            **self.help,
        }

    @property
    def status_line(self) -> str:
        """Camera, microphone, what is seen and kept; what is on stands first."""
        status = self._live.status
        budget = (self._sources.budget.bytes or 0) / 1e6
        kept = f"{clock(round(status.held))} kept, {status.bytes / 1e6:.1f} of {budget:.0f} MB"
        dropped = 0 if status.camera is None else status.camera.dropped
        parts = [*self._states(status), *self._spoken.states, f"about {self.spoken(self.span)}", kept]
        return " | ".join(parts + [f"{dropped} frames dropped"] * (status.camera is not None))

    @property
    def title(self) -> str:
        """What is on, in a few words."""
        status = self._live.status
        sources = (("camera", status.camera), ("microphone", status.microphone))
        return "vllama: " + ", ".join(f"{name} {source.state}" for name, source in sources if source is not None)

    @property
    def heading(self) -> str:
        sources = (self._live.status.camera, self._live.status.microphone)
        names = [source.name for source in sources if source is not None]
        return f"{', '.join(names)} since {self._live.clock.started:%Y-%m-%d %H:%M:%S}, {self._engine.spec.name}"

    def typing(self) -> None:
        """Somebody types."""
        self._ahead.typing()

    def read_span(self, text: str) -> Span:
        return parse_live_span(text, self._live.clock)

    def spoken(self, span: Span) -> str:
        if span == Span.whole():
            return "all that is kept"
        if span.start < 0:
            return f"the last {-span.start:g} s"
        end = "now" if span.end == float("inf") else time_of_day(span.end, self._live.clock)
        return f"{time_of_day(span.start, self._live.clock)} to {end}"

    def clear(self) -> None:
        with self._ahead.asking():
            super().clear()
        self._asked_at.clear()

    def talk(self) -> str:
        times = zip(self._asked_at, self.chat.turns, strict=True)
        return "\n\n".join(f"{moment}\n> {turn.question}\n{turn.answer}" for moment, turn in times)

    def prepare(self) -> None:
        self._ahead.chat.window = self.span

    def ask(self, question: str, span: Span) -> None:
        self._wait_for_something()
        asking, asked, clock = self._asking, self._live.clock.now(), self._live.clock
        self._live.timeline.reach(asked)
        with self._terminal.quiet(), self._ahead.asking() as chat:
            deltas = chat.ask(question, span, long=asking.long, sampling=asking.sampling, seed=asking.seed)
            try:
                with closing(deltas), self._spoken.aloud(chat, deltas) as said:
                    if asking.as_json:
                        print_json(question, said, started=clock.started.isoformat(), asked=asked)
                    else:
                        usage = print_stream(said)
                        print(live_evidence_line(usage, lambda second: time_of_day(second, clock)), file=sys.stderr)
            finally:  # what was stopped has been said, too
                self._asked_at += [time_of_day(asked, clock)] * (len(chat.turns) - len(self._asked_at))
                self._terminal.show_title()

    def _wait_for_something(self) -> None:
        """A question that comes at once would find nothing."""
        end = time.monotonic() + _FIRST_SECONDS
        while time.monotonic() < end and self._is_blank():
            time.sleep(_POLL_SECONDS)

    def _is_blank(self) -> bool:
        status, timeline = self._live.status, self._live.timeline
        return any(
            source is not None and source.state == "on" and not count
            for source, count in ((status.camera, timeline.frame_count), (status.microphone, timeline.clip_count))
        )

    def _states(self, status: LiveStatus) -> list[str]:
        states = []
        if status.camera is not None:
            rate = f", {status.seen_rate:.1f} frames/s" if status.camera.state == "on" else ""
            states.append(f"{_short(status.camera)} {status.camera.state}{rate}")
        if status.microphone is not None:
            states.append(f"{_short(status.microphone)} {status.microphone.state}")
        return states

    def _state(self, sense: Sense) -> str:
        source: SourceStatus | None = getattr(self._live.status, sense)
        return "" if source is None else source.state

    def _switch(self, rest: str, *, on: bool) -> None:
        status = self._live.status
        if rest and rest not in _NAMED:
            raise SpecError(f"{rest!r} is neither camera nor mic; write one of them, or nothing for both")
        sense = _NAMED.get(rest)
        if sense is not None and getattr(status, sense) is None:
            raise SpecError(f"there is no {sense} in this conversation; begin it with one")
        (self._live.resume if on else self._live.pause)(sense)
        end = time.monotonic() + _RESUME_SECONDS * on
        while time.monotonic() < end and "lost" in (self._state(sense) for sense in _NAMED.values()):
            time.sleep(_POLL_SECONDS)
        print(", ".join(self._states(self._live.status)), file=sys.stderr)

    def _forget(self, rest: str) -> None:
        span = self.read_span(rest) if rest else Span.whole()
        with self._ahead.asking():
            self._live.forget(span)
            self._ahead.chat = self.chat = _conversation(self._engine, self._live, self._asking, self.span)
        self._asked_at.clear()
        print(f"forgot {self.spoken(span)}, and what was said", file=sys.stderr)

    def _snapshot(self, rest: str) -> None:
        if not rest:
            raise SpecError("/snapshot needs a file; write /snapshot now.png")
        seen = self._live.picture()
        if seen is None:
            raise SpecError("there is no picture: no camera is on; /status says what is")
        write_picture(seen[1], Path(rest))
        print(f"wrote {rest}, seen at {time_of_day(seen[0], self._live.clock)}", file=sys.stderr)


def _short(source: SourceStatus) -> str:
    name = source.name
    return name if len(name) <= _NAME else f"{name[: _NAME - 3]}..."
