"""`vllama chat --webcam --mic` on a network camera and a sound server of this machine's own."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.live.mjpeg import MjpegServer
from tests.live.process import Running
from tests.live.pulse import Pulse, missing
from tests.live.terminal import own_terminal
from vllama.cli.app import app
from vllama.runtime import DeviceError, SpecError
from vllama.runtime.media import probe
from vllama.runtime.sound import count_samples, read_samples

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
MODEL = ("--model", "miniature", "--threads", "2")


@pytest.fixture(scope="module")
def beeps(film: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its sound as WAV, five times."""
    info = probe(film)
    (sound,) = read_samples(info, [(0, count_samples(info, 16000))], 16000)
    path = tmp_path_factory.mktemp("sound") / "beeps.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((np.tile(sound.data[0], 5) * 32767).astype(np.int16).tobytes())
    return path


@pytest.fixture
def camera(film: Path) -> Iterator[MjpegServer]:
    with MjpegServer(film) as server:
        yield server


@pytest.fixture(scope="module")
def pulse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulse]:
    with Pulse(tmp_path_factory.mktemp("pulse")) as pulse:
        yield pulse


def test_what_is_seen_and_heard_now_is_answered(
    camera: MjpegServer, pulse: Pulse, beeps: Path, home: Path, tmp_path: Path
) -> None:
    talk, picture = tmp_path / "talk.txt", tmp_path / "now.png"
    arguments = ("chat", "--webcam", camera.url, "--mic", "pulse", "--window", "6s", "--memory", "2MB", *MODEL)
    with Running(*arguments, home=home) as chat:
        chat.until("the miniature answers")
        pulse.play(beeps, wait=False)
        time.sleep(7.0)
        chat.say("Is there a red circle?", "What do you hear?")
        circle, sound = chat.answers(2)
        assert circle.endswith("so yes."), circle
        assert "beep" in sound, sound
        chat.say("/status")
        status = chat.until("MB |")
        assert re.search(r"camera\.mjpg|http\S+\.\.\.", status)
        assert re.search(r" on, [2-4]\.\d frames/s \| \S+.* on \| about the last 6 s \| 0:\d\d kept", status), status
        assert re.search(r"\d\.\d of 2 MB \| \d+ frames dropped", status), status
        evidence = [line for line in chat.err if line.startswith("saw")]
        assert re.fullmatch(r"saw 8 frames, \d\d:\d\d:\d\d to \d\d:\d\d:\d\d; heard \d\d:\S+ to \d\d:\S+", evidence[0])
        chat.say(f"/snapshot {picture}", f"/snapshot {picture}", f"/save {talk}", "/exit")
        assert chat.end() == 0
        chat.until("give a new .png")
    with Image.open(picture) as image:
        assert image.size == (320, 240)
    assert re.search(r"\d\d:\d\d:\d\d\n> Is there a red circle\?\n.*so yes\.", talk.read_text("utf-8"))


def test_pause_forget_and_times_of_day(camera: MjpegServer, home: Path) -> None:
    with Running("chat", "--webcam", camera.url, "--json", *MODEL, home=home) as chat:
        chat.say("Is there a red circle?")  # waits for the first picture
        began = json.loads(chat.answers(1)[0])
        time.sleep(3.0)
        chat.say("/pause")
        chat.until("paused")
        paused = time.strftime("%H:%M:%S")
        time.sleep(2.5)
        chat.say("/at last 1s what?", f"/at {paused} Is there a red circle?", "/at 3:7 what?", "/at last 9s")
        row = json.loads(chat.answers(2)[1])
        assert row["frame_times"]
        assert row["started"] == began["started"]
        chat.until("nothing was seen or heard in that time")
        chat.until("not a time of day")
        chat.until("no question")
        chat.say("/forget", "/at last 1m what?", "/resume mic", "/resume camera")
        chat.until("forgot all that is kept, and what was said")
        chat.until("there is no microphone")
        time.sleep(2.0)
        chat.say("Is there a red circle?", "/frames", "/snapshot", "/snapshot x.txt", "/pause everything", "/help")
        row = json.loads(chat.answers(3)[2])
        assert min(row["frame_times"]) > max(began["frame_times"]) + 3.0
        for said in ("no command /frames", "/snapshot needs a file", "not a picture format", "neither camera nor mic"):
            chat.until(said)
        chat.until("/forget [TIME]")
        assert chat.end() == 0


def test_a_microphone_alone_is_enough(pulse: Pulse, beeps: Path, home: Path) -> None:
    with Running("chat", "--mic", "pulse", "--window", "4s", *MODEL, home=home) as chat:
        chat.until("the miniature answers")
        pulse.play(beeps, wait=False)
        time.sleep(5.0)
        chat.say("What do you hear?", "/status", "/snapshot x.png")
        assert "beep" in chat.answers(1)[0]
        assert "frames" not in chat.until(" kept, ")
        assert chat.until("saw nothing; heard ")
        chat.until("no camera is on")
        assert chat.end() == 0


@pytest.mark.parametrize(
    ("arguments", "said", "kind"),
    [
        ((), "give --video FILE, --webcam SOURCE or --mic DEVICE", SpecError),
        (("--video", "x.mp4", "--webcam", "0"), "--video cannot stand beside", SpecError),
        (("--webcam", "x.mp4", "--record", "r.jsonl"), "--record cannot stand beside", SpecError),
        (("--webcam", "0", "--memory", "lots"), "'lots' is not a size", SpecError),
        (("--webcam", "0", "--window", "0s"), "no time at all", SpecError),
        (("--webcam", "nothing-there.mp4", *MODEL), "nothing-there.mp4", DeviceError),
        (("--mic", "no such microphone", *MODEL), "no such microphone", DeviceError),
    ],
)
def test_what_cannot_be_followed_is_an_error(arguments: tuple[str, ...], said: str, kind: type[Exception]) -> None:
    done = CliRunner().invoke(app, ["chat", *arguments])
    assert isinstance(done.exception, kind), done.output
    assert said in str(done.exception)
    assert not [thread for thread in threading.enumerate() if thread.name in ("camera", "microphone", "read ahead")]


def test_nothing_is_written_to_the_disk_unless_asked(camera: MjpegServer, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Running("chat", "--webcam", camera.url, *MODEL, home=home) as chat:
        chat.say("Is there a red circle?", "/at last 2s Is there a red circle?")
        chat.answers(2)
        assert chat.end() == 0
    written = [path for path in home.rglob("*") if path.is_file()] if home.exists() else []
    assert [path.parent.name for path in written] == ["verified"], written  # of the model's own files


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is opened as POSIX does it")
def test_a_terminal_shows_what_is_on_and_is_sane_afterwards(camera: MjpegServer, home: Path) -> None:
    import pty
    import termios

    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    process = subprocess.Popen(
        [sys.executable, "-m", "vllama.cli", "chat", "--webcam", camera.url, "--max-tokens", "96", *MODEL],
        stdin=follower, stdout=follower, stderr=follower, start_new_session=True, preexec_fn=own_terminal,
        env={**os.environ, "VLLAMA_CACHE": str(home / "cache"), "TERM": "xterm", "COLUMNS": "120", "LINES": "30"},
    )  # fmt: skip
    screen = _Screen(leader)
    try:
        screen.until("/help lists the commands")
        screen.until(" on, ", "vllama: camera on")
        os.write(leader, b"Is there a red circle?\r")
        screen.until("so yes.", "; heard nothing")
        camera.kill()
        screen.until("trying again", "vllama: camera lost")
        os.write(leader, b"\x03")
        os.write(leader, b"half a line\x03")
        camera.start()
        screen.until(": back after", "vllama: camera on")
        os.write(leader, b"/exit\r")
        assert process.wait(60) == 0
        assert termios.tcgetattr(follower) == before
    finally:
        process.kill()
        process.wait()
        os.close(leader)
        os.close(follower)


class _Screen:
    """What was written to the terminal; it answers where its cursor is, as terminals do."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._seen = ""

    def until(self, *wanted: str, seconds: float = 60.0) -> None:
        """All of these, in any order, after what was waited for before."""
        end, left = time.monotonic() + seconds, list(wanted)
        while left:
            for words in [words for words in left if words in self._seen]:
                left.remove(words)
            assert time.monotonic() < end, (left, self._seen[-2000:])
            if left and select.select([self._leader], [], [], 0.2)[0]:
                text = os.read(self._leader, 4096).decode("utf-8", "replace")
                if "\x1b[6n" in text:
                    os.write(self._leader, b"\x1b[3;1R")
                self._seen += text
        self._seen = ""
