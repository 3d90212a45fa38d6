from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
from typer.testing import CliRunner

from vllama.cli import options, watch
from vllama.cli.app import app
from vllama.cli.watch import ScorePrinter, has_ended, ticks
from vllama.runtime import Budget, Engine, Live, SpecError
from vllama.runtime.capture.clock import Clock
from vllama.runtime.capture.source import SourceStatus
from vllama.runtime.live.live import LiveStatus
from vllama.runtime.live.watching import Score
from vllama.runtime.types import Span

SEEN = Score(Span(2.0, 4.0), 0.61, "a red circle?", (2.5, 3.5))
UNDECIDED = Score(Span(2.0, 4.0), None, "The circle is red.", (2.5,))
NOTHING = Score(Span(2.0, 4.0), None, "")
ON = SourceStatus("source", "on", "", 1, 0, 0.0)
ENDED = SourceStatus("source", "ended", "", 1, 0, 0.0)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which only sleeping, and who sets it, lets go on."""
    time = [100.0]

    def sleep(seconds: float) -> None:
        assert seconds >= 0
        time[0] += seconds

    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: time[0], sleep=sleep))
    return time


def test_it_ticks_after_each_step_up_to_the_end(now: list[float]) -> None:
    assert [now[0] - 100.0 for _ in ticks(2.0, 6.0)] == [2.0, 4.0, 6.0]
    assert list(ticks(2.0, 1.9)) == []


def test_what_takes_a_while_moves_no_tick_and_what_was_missed_is_left_out(now: list[float]) -> None:
    at = []
    for number, _ in enumerate(ticks(2.0, 14.0)):
        at.append(now[0] - 100.0)
        now[0] += (0.5, 5.0, 0.5, 1.5)[number] if number < 4 else 0.0
    assert at == [2.0, 4.0, 10.0, 12.0, 14.0]


@pytest.mark.parametrize(
    ("camera", "microphone", "ended"),
    [
        (ENDED, None, True),
        (ON, None, False),
        (replace(ON, state="lost", detail="nothing comes any more"), None, False),
        (ENDED, ON, False),
        (None, replace(ON, state="lost", detail="unplugged"), False),
    ],
)
def test_only_a_file_that_nothing_is_watched_beside_ends_it(
    camera: SourceStatus | None, microphone: SourceStatus | None, ended: bool
) -> None:
    assert has_ended(LiveStatus(camera, microphone, 0.0, 0, 0, 0, 0, 0.0, 0)) == ended


@pytest.fixture
def live() -> Live:
    return cast(Live, SimpleNamespace(clock=Clock()))  # all of it that is used here; a real one needs an engine


def test_a_score_is_a_line_for_people_or_for_programs(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    at = live.clock.wall(4.0)
    for score, yes in ((SEEN, "0.61  a red circle? ..."), (UNDECIDED, "undecided  The circle is red. ...")):
        ScorePrinter("Red?", live, as_json=False).score(score, True, changed=True)
        assert capsys.readouterr().out == f"{at:%H:%M:%S}  on   {yes}\n"
        ScorePrinter("Red?", live, as_json=True).score(score, False, changed=False)
        row = json.loads(capsys.readouterr().out)
        assert (row["state"], row["yes"], row["changed"], row["question"]) == ("off", score.yes, False, "Red?")
        assert row["time"] == at.isoformat(timespec="milliseconds")
        assert len(row["frames"]) == len(score.frame_times)


def test_what_is_undecided_is_said_once_for_each_reason_in_turn(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    printer = ScorePrinter("Red?", live, as_json=True)
    for score in (UNDECIDED, UNDECIDED, NOTHING, NOTHING, UNDECIDED):
        printer.undecided(score)
    reasons = ["nothing is seen" in line for line in capsys.readouterr().err.splitlines()]
    assert reasons == [False, True, False]


def test_a_command_is_told_the_state_and_what_it_rests_on(live: Live) -> None:
    told = ScorePrinter("Red?", live, as_json=True).variables(SEEN, True)
    assert told == {
        "VLLAMA_STATE": "on",
        "VLLAMA_YES": "0.61",
        "VLLAMA_TIME": live.clock.wall(4.0).isoformat(timespec="milliseconds"),
        "VLLAMA_QUESTION": "Red?",
        "VLLAMA_ANSWER": "a red circle?",
    }


def test_as_much_is_kept_as_the_window_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[float | None] = []

    def stop(engine: Engine, *, budget: Budget, **how: object) -> None:
        kept.append(budget.seconds)
        raise SpecError("enough")

    monkeypatch.setattr(Engine, "watch", stop)
    for window in ("4s", "5m"):
        CliRunner().invoke(app, ["watch", "Red?", "--webcam", "0", "--window", window, "--model", "miniature"])
    assert kept == [60.0, 600.0]


def test_a_question_that_is_no_text_is_asked_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def stop(engine: Engine, question: str, timeline: object) -> None:
        asked.append(question)
        raise SpecError("enough")

    monkeypatch.setattr(Engine, "watch", lambda engine, **how: nullcontext(SimpleNamespace(timeline=None)))
    monkeypatch.setattr(Engine, "yes_no", stop)
    CliRunner().invoke(app, ["watch", "Red \udcff?", "--webcam", "0", "--model", "miniature"])
    assert asked == ["Red \ufffd?"]


def test_a_command_that_failed_is_said_though_nothing_changes_after_it(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    status = LiveStatus(ON, None, 0.0, 0, 0, 0, 0, 0.0, 0)
    source = SimpleNamespace(clock=live.clock, timeline=SimpleNamespace(reach=lambda second: None), status=status)

    def until_said(step: float, end: float) -> Iterator[None]:
        began = time.monotonic()
        while not any("ended with 3" in text for text in said) and time.monotonic() < began + 20.0:
            time.sleep(0.02)
            yield

    monkeypatch.setattr(options, "note", said.append)
    monkeypatch.setattr(watch, "ticks", until_said)
    monkeypatch.setattr(Engine, "watch", lambda engine, **how: nullcontext(source))
    monkeypatch.setattr(Engine, "yes_no", lambda engine, question, timeline: SimpleNamespace(score=lambda span: SEEN))
    command = f'"{sys.executable}" -c "raise SystemExit(3)"'
    watch.watch("Red?", webcam="0", command=command, model="miniature")
    assert "ended with 3; the watch goes on" in said[-1]
