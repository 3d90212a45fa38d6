"""`vllama watch`: a yes or no question asked of the newest window again and again; what changes is said or done."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from vllama.runtime import Budget, Live, SpecError
from vllama.runtime.live.live import LiveStatus
from vllama.runtime.live.watching import Score, Switch
from vllama.runtime.times import make_span, parse_seconds

from . import options
from .command import Command

_LEAST_KEPT_SECONDS = 60.0


def watch(
    question: Annotated[str, typer.Argument(help="A yes or no question: 'Is there a person?'")],
    webcam: options.Webcam = None,
    mic: options.Mic = None,
    every: Annotated[str, typer.Option("--every", help="How often to ask.")] = "2s",
    window: Annotated[str, typer.Option("--window", help="How far back a question looks.")] = "4s",
    on: Annotated[float, typer.Option("--on", min=0.0, max=1.0, help="On from this score.")] = 0.6,
    off: Annotated[float, typer.Option("--off", min=0.0, max=1.0, help="Off again at this score.")] = 0.4,
    command: Annotated[
        str | None,
        typer.Option("--command", metavar="CMD", help="Run at each change, with $VLLAMA_STATE (on, off) and others."),
    ] = None,
    bell: Annotated[bool, typer.Option("--bell", help="Ring when it turns on.")] = False,
    every_score: Annotated[bool, typer.Option("--all", help="Print every score, not only changes.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines to a terminal, too; a pipe always gets them.")
    ] = False,
    lasting: Annotated[str | None, typer.Option("--for", metavar="TIME", help="Stop after this long: 10m.")] = None,
    model: options.Model = None,
    fps: Annotated[float, typer.Option(min=0.0, help="Pictures per second.")] = options.LIVE_FPS,
    ctx_size: options.CtxSize = None,
    threads: options.Threads = None,
    gpu_layers: options.GpuLayers = "auto",
    kv: options.KvCache = None,
    device: options.Device = "auto",
    runner: options.Runner = "auto",
) -> None:
    """Watch for something: a yes or no question is asked of camera and microphone, again and again, until Ctrl-C.

    Where only a file is watched, until its end.

    The score is the probability of yes against no. It begins as off.
    """
    question = options.question(question)
    span = make_span(last=window)
    if webcam is None and mic is None:
        raise SpecError("there is nothing to watch; give --webcam SOURCE, --mic DEVICE or both")
    step, switch = parse_seconds(every), Switch(on, off)
    if step <= 0:
        raise SpecError(f"--every {every} is no time at all; give more than 0 seconds")
    end = float("inf") if lasting is None else parse_seconds(lasting)
    run = Command(command, options.note)
    with (
        options.open_engine(model, device, runner, threads, gpu_layers, kv, ctx_size) as engine,
        run,
        engine.watch(
            camera=webcam, microphone=mic, fps=fps, note=options.note,
            budget=Budget(seconds=max(_LEAST_KEPT_SECONDS, -2 * span.start)),
        ) as live,
    ):  # fmt: skip
        options.say_if_miniature(engine)
        asked = engine.yes_no(question, live.timeline)
        show = ScorePrinter(question, live, as_json=as_json or not sys.stdout.isatty())
        for _ in ticks(step, end):
            is_last = has_ended(live.status)  # before the score, which is then of all there was
            live.timeline.reach(live.clock.now())
            score = asked.score(span)
            changed = switch.update(score.yes)
            if changed or every_score:
                show.score(score, switch.state, changed=changed)
            if score.yes is None:
                show.undecided(score)
            if changed:
                run.start(show.variables(score, switch.state))
                if bell and switch.state:
                    print("\a", end="", file=sys.stderr, flush=True)
            run.look()
            if is_last:
                break


def has_ended(status: LiveStatus) -> bool:
    """Whether nothing more will come of any source: a file's end, which its own note tells of."""
    sources = [source for source in (status.camera, status.microphone) if source is not None]
    return all(source.state == "ended" for source in sources)


def ticks(step: float, end: float) -> Iterator[None]:
    """Steadily, first after one step; what was missed is left out. Args: seconds, and seconds until the last."""
    began = time.monotonic()
    number = 1
    while number * step <= end:
        time.sleep(max(0.0, began + number * step - time.monotonic()))
        yield
        number = max(number + 1, int((time.monotonic() - began) / step) + 1)


class ScorePrinter:
    """Scores as lines to stdout."""

    def __init__(self, question: str, live: Live, *, as_json: bool) -> None:
        self._question = question
        self._live = live
        self._as_json = as_json
        self._said: bool | None = None

    def score(self, score: Score, state: bool, *, changed: bool) -> None:
        """One line."""
        if self._as_json:
            print(json.dumps(self._row(score, state) | {"changed": changed}, ensure_ascii=False), flush=True)
            return
        yes = "undecided" if score.yes is None else f"{score.yes:.2f}"
        words = f"  {score.answer} ..." if score.answer else ""
        print(f"{self._live.clock.wall(score.span.end):%H:%M:%S}  {_name(state):3}  {yes}{words}", flush=True)

    def undecided(self, score: Score) -> None:
        """Say it once for each reason."""
        answered = bool(score.frame_times or score.audio_spans)
        if answered == self._said:
            return
        self._said = answered
        if answered:
            options.note(f"the answer comes to neither yes nor no: {score.answer!r}; ask a yes or no question")
        else:
            options.note("nothing is seen or heard; the watch goes on when there is something")

    def variables(self, score: Score, state: bool) -> dict[str, str]:
        """What a command is told in its environment."""
        row = self._row(score, state)
        return {f"VLLAMA_{name.upper()}": str(row[name]) for name in ("state", "yes", "time", "question", "answer")}

    def _row(self, score: Score, state: bool) -> dict[str, object]:
        wall = self._live.clock.wall
        return {
            "time": wall(score.span.end).isoformat(timespec="milliseconds"),
            "state": _name(state),
            "yes": None if score.yes is None else round(score.yes, 4),
            "question": self._question,
            "answer": score.answer,
            "frames": [wall(second).isoformat(timespec="milliseconds") for second in score.frame_times],
            "sounds": [[wall(s).isoformat(timespec="milliseconds") for s in span] for span in score.audio_spans],
        }


def _name(state: bool) -> str:
    return "on" if state else "off"
