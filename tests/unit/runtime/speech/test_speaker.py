from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.waiting import until
from vllama.runtime.speech.speaker import Speaker
from vllama.runtime.speech.voices import Voice

_PROGRAM = """
import sys, time
text = sys.stdin.buffer.read() or sys.argv[3].encode()
with open(sys.argv[1], "ab") as file:
    file.write(text + b"\\n")
    file.flush()
    time.sleep(float(sys.argv[2]))
    file.write(b"done\\n")
"""
Open = Callable[..., Speaker]
notes: list[str] = []


@pytest.fixture
def read(tmp_path: Path) -> Path:
    return tmp_path / "read.txt"


@pytest.fixture
def open_speaker(read: Path) -> Iterator[Open]:
    """A speaker whose voice is a program that writes down what it reads, and takes its time."""
    opened: list[Speaker] = []
    notes.clear()

    def make(seconds: float = 0.0, *command: str, by_stdin: bool = True, hush: tuple[str, ...] = ()) -> Speaker:
        own = (sys.executable, "-c", _PROGRAM, str(read), str(seconds))
        opened.append(Speaker(Voice(command or own, by_stdin, hush), notes.append))
        return opened[-1]

    yield make
    for speaker in opened:
        speaker.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "speaker"]


def lines(read: Path) -> list[str]:
    return read.read_text("utf-8").splitlines() if read.exists() else []


def test_sentences_are_read_in_turn_while_the_answer_is_made(open_speaker: Open, read: Path) -> None:
    speaker = open_speaker()
    speaker.push("The circle is red. It is")
    until(lambda: "The circle is red." in lines(read))
    speaker.push(" small, é")
    speaker.finish()
    speaker.wait()
    assert lines(read) == ["The circle is red.", "done", "It is small, é", "done"]
    assert notes == []


@pytest.mark.parametrize("by_stdin", [True, False])
def test_no_shell_ever_sees_the_text(
    open_speaker: Open, read: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_stdin: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "--help $(touch made) `touch made` ; touch made & \"x\" 'y' | $HOME > made"
    speaker = open_speaker(by_stdin=by_stdin)
    speaker.push(text)
    speaker.finish()
    speaker.wait()
    assert lines(read) == [text, "done"]
    assert not (tmp_path / "made").exists()


def test_commands_to_the_voice_are_read_not_obeyed(open_speaker: Open, read: Path) -> None:
    speaker = open_speaker()
    speaker.push("a [[slnc 9000]] b")
    speaker.finish()
    speaker.wait()
    assert lines(read)[0] == "a [ [slnc 9000]] b"


def test_stop_is_silence_at_once_and_drops_the_rest(open_speaker: Open, read: Path) -> None:
    speaker = open_speaker(60.0)
    speaker.push("One. Two. Three. Four")
    until(lambda: lines(read) == ["One."])
    begun = time.monotonic()
    speaker.stop()
    speaker.wait()
    assert time.monotonic() - begun < 10.0
    speaker.finish()  # what was half said is dropped, too
    time.sleep(0.3)
    assert lines(read) == ["One."]
    assert notes == []
    speaker.push("Five. ")
    until(lambda: lines(read) == ["One.", "Five."])


def test_it_is_known_when_the_voice_sounded(open_speaker: Open, read: Path) -> None:
    speaker = open_speaker(0.3)
    before = time.monotonic()
    assert not speaker.sounds(before)
    speaker.push("One. ")
    until(lambda: lines(read) == ["One."])
    assert speaker.sounds(time.monotonic())
    assert not speaker.sounds(before - 0.1)
    speaker.wait()
    after = time.monotonic()
    assert speaker.sounds(after), "its echo is still in the room"
    assert not speaker.sounds(after + 0.6)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ((sys.executable, "-c", "import sys; sys.exit('no such device')"), "no such device"),
        ((sys.executable, "-c", "raise SystemExit(3)"), "it ended with 3"),
        ((sys.executable, "-c", "import sys; print('error: No sound card', file=sys.stderr)"), "No sound card"),
        pytest.param(
            ("/nonexistent/voice",),
            "No such file or directory",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="which has words of its own"),
        ),
    ],
)
def test_a_voice_that_fails_is_one_note_and_no_more(open_speaker: Open, command: tuple[str, ...], reason: str) -> None:
    speaker = open_speaker(0.0, *command)
    speaker.push("One. Two. ")
    speaker.wait()
    until(lambda: bool(notes))
    speaker.push("Three. ")
    speaker.wait()
    name = Path(command[0]).stem
    assert notes == [f"{name} cannot read aloud: {reason}; answers are only shown from now on"]


def test_a_voice_that_another_process_speaks_is_hushed_as_well(open_speaker: Open, read: Path, tmp_path: Path) -> None:
    hushed = tmp_path / "hushed"
    hush = (sys.executable, "-c", f"open({str(hushed)!r}, 'w').close()")
    speaker = open_speaker(60.0, hush=hush)
    speaker.stop()
    assert not hushed.exists(), "nothing was being read"
    speaker.push("One. ")
    until(lambda: lines(read) == ["One."])
    speaker.stop()
    assert hushed.exists()


def test_closing_is_silence(open_speaker: Open, read: Path) -> None:
    speaker = open_speaker(60.0)
    speaker.push("One. Two. ")
    until(lambda: lines(read) == ["One."])
    begun = time.monotonic()
    speaker.close()
    speaker.close()
    assert time.monotonic() - begun < 10.0
    assert lines(read) == ["One."]
