"""Questions that are spoken into the microphone, and answers that come out of it again, as `vllama chat` hears them.

The Whisper is a tiny one that says "Is there a red circle?" whatever it hears (`tests/live/tiny_whisper.py`): what is
tested is that it is given what was said, when it was said, and nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest

from tests.live.mjpeg import MjpegServer
from tests.live.process import Running
from tests.live.pulse import Pulse, missing
from tests.live.spoken import say, silence
from tests.live.waiting import until
from vllama.runtime.capture.clock import Clock
from vllama.runtime.capture.microphone import Microphone
from vllama.runtime.speech.speaker import Speaker
from vllama.runtime.speech.voices import find_voice

pytest.importorskip("faster_whisper", reason="needs the extra `speech`")
from tests.live.tiny_whisper import write_tiny_whisper

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
MODEL = ("--model", "miniature", "--threads", "2", "--window", "6s", "--temperature", "0")
QUESTION = "Is there a red circle?"


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_whisper(tmp_path_factory.mktemp("whisper"), QUESTION)


@pytest.fixture(scope="module")
def camera() -> Iterator[MjpegServer]:
    """A red circle and a blue star."""
    with as_file(files("vllama.cli").joinpath("demo_clips", "circle.mp4")) as film, MjpegServer(film) as server:
        yield server


@pytest.fixture(scope="module")
def pulse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pulse]:
    with Pulse(tmp_path_factory.mktemp("pulse")) as pulse:
        pulse.speaker()
        yield pulse


@pytest.fixture
def slow_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The voice of this system, slow and quiet."""
    program = tmp_path / "bin" / "espeak-ng"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{shutil.which("espeak-ng")}" -s 80 -a 20 "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def speak(pulse: Pulse, words: str, peak: float = 0.5) -> None:
    """Say it into the microphone, and wait until it was said."""
    sound = say(words, peak=peak)
    begin = pulse.speaker().play(np.concatenate((sound, silence(0.1))))
    time.sleep(max(0.0, begin + len(sound) / 16000 - time.monotonic()))


def wait_for_pictures(chat: Running) -> None:
    chat.until("the miniature answers")
    chat.say(QUESTION)
    assert chat.answers(1)[0].endswith("so yes.")


def test_what_is_said_is_asked_hands_free(camera: MjpegServer, pulse: Pulse, whisper: Path, home: Path) -> None:
    arguments = ("--webcam", camera.url, "--mic", "pulse", "--speech", "--speech-model", whisper)
    with Running("chat", *arguments, *MODEL, home=home) as chat:
        wait_for_pictures(chat)
        speak(pulse, "Is there a red circle in the picture?")
        chat.until(f"heard: {QUESTION}")
        assert chat.answers(2)[1].endswith("so yes.")
        chat.say("/status")
        assert "| listening |" in chat.until(" kept, ")
        chat.say("/pause mic")
        chat.until("paused")
        speak(pulse, "Nobody should hear this.")
        chat.say("/resume mic", "/exit")
        assert chat.end() == 0
    assert len(chat.out) == 2, "what was said while it was paused was asked"
    assert len([line for line in chat.err if line.startswith("heard:")]) == 1


def test_push_to_talk_takes_the_model_from_the_environment(
    camera: MjpegServer, pulse: Pulse, whisper: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLAMA_SPEECH_MODEL", str(whisper))
    with Running("chat", "--webcam", camera.url, "--mic", "pulse", *MODEL, home=home) as chat:
        wait_for_pictures(chat)
        speak(pulse, "Nobody listens now.")
        chat.say("/talk")
        chat.until("speak, then press Enter")
        speak(pulse, "Is there a red circle?")
        chat.say("")
        chat.until(f"heard: {QUESTION}")
        assert chat.answers(2)[1].endswith("so yes.")
        chat.say("/talk", QUESTION)  # typed after all
        assert chat.answers(3)[2].endswith("so yes.")
        chat.say("/talk", "")  # in no time
        chat.until("the microphone heard nothing in that time")
        chat.say("/help")
        chat.until("/talk  ")
        assert chat.end() == 0
    assert len([line for line in chat.err if line.startswith("heard:")]) == 1


@pytest.mark.usefixtures("slow_voice")
def test_the_own_voice_is_no_question_and_somebody_louder_stops_it(
    camera: MjpegServer, pulse: Pulse, whisper: Path, home: Path
) -> None:
    arguments = ("--webcam", camera.url, "--mic", "pulse", "--speech", "--speech-model", whisper, "--aloud")
    with Running("chat", *arguments, *MODEL, home=home) as chat:
        wait_for_pictures(chat)
        time.sleep(5.0)  # the answer is read, and heard: long enough to know the voice
        chat.say(QUESTION)
        chat.answers(2)
        time.sleep(1.0)  # it is being read again
        assert not [line for line in chat.err if line.startswith("heard:")], "it asked itself"
        speak(pulse, "I want to know whether there is a red circle in the picture or not", peak=0.8)
        chat.until(f"heard: {QUESTION}")
        # On a busy machine the sound has holes: it is two questions then, and the second stops the first answer.
        until(lambda: any(answer.endswith("so yes.") for answer in chat.out[2:]), 60.0)
        chat.say("/exit")
        assert chat.end() == 0


def test_a_system_voice_is_heard_and_is_silent_at_once(pulse: Pulse) -> None:
    clock = Clock()
    microphone = Microphone("pulse", 16000, clock, print)
    voice = find_voice()
    assert voice is not None
    notes: list[str] = []
    speaker = Speaker(voice, notes.append, clock.now)
    try:
        begun = clock.now()
        speaker.push(
            "This is a long sentence that goes on and on, whatever anybody does about it, for a while. And on. "
        )
        time.sleep(2.0)
        stopped = clock.now()
        speaker.stop()
        time.sleep(1.5)
        heard = microphone.clip(begun, clock.now() - begun - 0.2, 5.0)
    finally:
        speaker.close()
        microphone.close()
    assert heard is not None
    assert notes == []
    loud = np.flatnonzero(np.abs(heard.data[0]) > 0.02) / 16000 + heard.start
    assert begun < loud[0] < begun + 1.5
    assert stopped - 0.7 < loud[-1] < stopped + 0.4, "it went on"


def test_without_a_system_voice_the_chat_goes_on(
    camera: MjpegServer, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with Running("chat", "--webcam", camera.url, "--aloud", *MODEL, home=home) as chat:
        wait_for_pictures(chat)
        assert chat.end() == 0
    assert len([line for line in chat.err if "no voice to read answers aloud; install one: " in line]) == 1


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("--webcam", "0", "--speech"), "--speech needs a microphone; give --mic DEVICE", 2),
        (("--mic", "pulse", "--speech"), "--speech needs a speech model; give --speech-model DIR", 2),
        (("--mic", "pulse", "--speech", "--speech-model", "small.en"), "small.en: no such folder; the speech model", 3),
        (("--video", "x.mp4", "--speech"), "--speech is for --webcam and --mic", 2),
        (("--video", "x.mp4", "--aloud"), "--aloud is for --webcam and --mic", 2),
    ],
)
def test_what_is_lacking_is_one_line(
    vllama: Callable[..., subprocess.CompletedProcess[str]], arguments: tuple[str, ...], said: str, code: int
) -> None:
    done = vllama("chat", *arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("vllama: ")
    assert said in line


def test_without_the_extra_everything_else_works(
    camera: MjpegServer, pulse: Pulse, whisper: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['faster_whisper'] = None\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("VLLAMA_SPEECH_MODEL", str(whisper))
    install = 'install the extra `speech` (`pip install ".[speech]"` in vllama\'s checkout)'
    lacks = f"vllama: faster-whisper is not installed; {install}"
    with Running("chat", "--webcam", camera.url, "--mic", "pulse", *MODEL, home=home) as chat:
        wait_for_pictures(chat)
        chat.say("/talk")
        chat.until(lacks)
        chat.say(QUESTION)
        assert chat.answers(2)[1].endswith("so yes.")
        assert chat.end() == 0
    command = [sys.executable, "-m", "vllama.cli", "chat", "--mic", "pulse", "--speech"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (5, "")
    assert re.fullmatch(re.escape(lacks) + "\n", done.stderr)
