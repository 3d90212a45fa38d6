"""Sources that vanish, Ctrl-C at any moment, hours of it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.live.mjpeg import MjpegServer
from tests.live.process import Running
from tests.live.pulse import Pulse, missing
from vllama.cli import live as cli_live
from vllama.cli.app import app
from vllama.cli.render import print_stream
from vllama.runtime import Budget, Delta, Span, Usage
from vllama.runtime.live.live_chat import around
from vllama.runtime.timeline import ClipFeature, FrameFeature, Timeline

MODEL = ("--model", "miniature", "--threads", "2")
HOURS = 10


@pytest.fixture
def camera(film: Path) -> Iterator[MjpegServer]:
    with MjpegServer(film) as server:
        yield server


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_the_chat_goes_on_with_what_is_left_and_says_once_what_was_lost(
    camera: MjpegServer, home: Path, tmp_path: Path
) -> None:
    with Pulse(tmp_path / "pulse") as pulse:
        arguments = ("chat", "--webcam", camera.url, "--mic", "pulse", "--window", "3s", "--json", *MODEL)
        with Running(*arguments, home=home) as chat:
            chat.say("Is there a red circle?")
            chat.answers(1)
            camera.kill()
            chat.until("trying again")
            time.sleep(3.5)
            chat.say("What do you hear?", "/status")
            row = chat.answers(2)[1]
            assert '"frame_times": []' in row
            assert '"audio_spans": [[' in row
            chat.until(" lost | ")
            pulse.kill()
            chat.until("pulse")
            time.sleep(4.0)
            chat.say("Anything?")
            chat.until("nothing was seen or heard in that time")
            camera.start()
            chat.until("back after")
            time.sleep(1.5)
            chat.say("Is there a red circle?")
            assert "so yes." in chat.answers(3)[2]
            assert chat.end() == 0
            assert sum(camera.url in line and "trying again" in line for line in chat.err) == 1


@pytest.mark.parametrize("seconds", [0.3, 1.5, 2.5, 4.0])
def test_ctrl_c_at_any_moment_ends_it(camera: MjpegServer, home: Path, seconds: float) -> None:
    with Running("chat", "--webcam", camera.url, *MODEL, home=home) as chat:
        time.sleep(seconds)
        chat.interrupt()
        begun = time.monotonic()
        assert chat.process.wait(60) == 130
        assert time.monotonic() - begun < 30.0
    assert not [line for line in chat.err if re.search("Fatal|Traceback|core dumped", line)], chat.err


def test_ctrl_c_in_an_answer_keeps_the_chat(film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []

    def stopped_once(deltas: Iterable[Delta]) -> Usage:
        if stopped:
            return print_stream(deltas)
        stopped.append("".join(delta.text for delta in islice(deltas, 2)))
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_live, "print_stream", stopped_once)
    talk = tmp_path / "talk.txt"
    lines = f"What do you see?\n/save {talk}\nIs there a red circle?\n/status\n"
    done = CliRunner().invoke(app, ["chat", "--webcam", str(film), *MODEL], input=lines)
    assert done.exit_code == 0, done.output
    assert "stopped" in done.stderr
    assert done.stdout.strip().endswith("so yes.")
    assert talk.read_text("utf-8").rstrip().endswith(f"> What do you see?\n{stopped[0].strip()}")
    assert not [thread for thread in threading.enumerate() if thread.name in ("camera", "read ahead", "backbone_0")]


def test_ten_hours_are_kept_in_the_budget_and_the_newest_minutes_whole() -> None:
    budget = 16_000_000
    timeline = Timeline("", "", "video", 0, 0.0, 1000.0, sound=True, live=True, budget=Budget(bytes=budget))
    picture, still = np.zeros((16, 192), np.float16), np.zeros((16, 192), np.float16)
    for number in range(2 * 3600 * HOURS):
        moment = number / 2
        moving = number // 600 % 2  # five minutes of change, five of none
        timeline.add_frame(FrameFeature(500 * number, moment, picture.copy() if moving else still))
        if number % 2:
            timeline.add_clip(ClipFeature(moment - 2.0, moment, np.zeros(128, np.float16)))
        if number % 1200 == 1199:
            assert timeline.bytes <= budget
            newest = [frame.time for frame in timeline.frames_in(Span.last(60.0))]
            assert newest == [moment - 60.0 + step / 2 for step in range(121)]
    assert timeline.bytes > 0.99 * budget
    assert timeline.held == pytest.approx(3600.0 * HOURS, abs=1.0)
    for minute in range(0, 60 * HOURS, 7):
        span = around(Span(60.0 * minute, 60.0 * minute + 60.0), timeline.duration)
        assert timeline.choose_frames(8, span), minute
        assert timeline.choose_clips(8, 2.0, span), minute
