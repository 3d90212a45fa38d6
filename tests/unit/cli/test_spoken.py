from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.live.spoken import Recording, Sound, silence
from tests.live.waiting import until
from vllama.cli.entered import EnteredLines
from vllama.cli.spoken import Ears, Speech, Spoken
from vllama.runtime import Chat, Engine, Live, Sampling, SpecError
from vllama.runtime.capture.clock import Clock

LONG = Sampling(temperature=3.0, top_p=1.0, top_k=0, max_tokens=400)  # random words that hardly ever end


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.open("miniature", threads=2) as engine:
        yield engine


@pytest.fixture(scope="module")
def live(engine: Engine) -> Iterator[Live]:
    """Long high tones, heard by now."""
    tone: Sound = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000)).astype(np.float32)
    clock = Clock()
    with engine.follow(None, Recording(clock, *[tone, silence(0.5)] * 10), clock) as live:
        until(lambda: live.timeline.clip_count > 0)
        yield live


@pytest.fixture
def chat(engine: Engine, live: Live) -> Chat:
    return engine.chat(live.timeline)


@pytest.fixture
def voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the voice of this system has read; it is a program that writes it down and takes half a second."""
    if sys.platform == "win32":
        pytest.skip("the voice is a shell script")
    read, program = tmp_path / "read.txt", tmp_path / "espeak-ng"
    program.write_text(f'#!/bin/sh\ncat >> "{read}"\necho >> "{read}"\nexec sleep 0.5\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return read


def open_spoken(live: Live, notes: list[str] | None = None, **options: object) -> Spoken:
    ears = Ears(Speech(**options), microphone=True)  # type: ignore[arg-type]
    return Spoken(ears, live, EnteredLines(), typing=lambda: None, note=(notes if notes is not None else []).append)


def test_without_a_voice_nothing_changes(live: Live, chat: Chat) -> None:
    with open_spoken(live) as spoken:
        assert list(spoken.lines(iter(["one\n", "two\n"]))) == ["one\n", "two\n"]
        with spoken.aloud(chat, chat.ask("What do you hear?")) as said:
            assert "tone" in "".join(delta.text for delta in said)
        assert spoken.states == []


def test_who_speaks_stops_the_answer(live: Live, chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    with open_spoken(live) as spoken:
        with spoken.aloud(chat, chat.ask("What do you hear?", sampling=LONG, seed=1)) as said:
            next(said)
            speaks = threading.Thread(target=spoken._began)  # as the listener does
            speaks.start()
            speaks.join()
            *_, last = said
        assert last.usage is not None
        assert last.usage.finish == "cancelled"
        assert last.usage.answer_tokens < LONG.max_tokens / 2
        assert "stopped, somebody speaks" in capsys.readouterr().err
        with spoken.aloud(chat, chat.ask("What do you hear?")) as said:
            *_, last = said
        assert last.usage is not None
        assert last.usage.finish == "stop", "the next answer is made as ever"


def test_who_speaks_before_the_first_word_stops_the_answer_too(live: Live, chat: Chat) -> None:
    with open_spoken(live) as spoken, spoken.aloud(chat, chat.ask("What?", sampling=LONG, seed=1)) as said:
        spoken._began()  # nothing is read yet
        *_, last = said
        assert last.usage is not None
        assert last.usage.finish == "cancelled"
        assert last.usage.answer_tokens == 0


def test_who_speaks_again_before_the_answer_begins_stops_it_too(
    live: Live, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_spoken(live) as spoken:
        monkeypatch.setattr(spoken, "_goes_on", lambda: True)
        with spoken.aloud(chat, chat.ask("What?", sampling=LONG, seed=1)) as said:
            *_, last = said
    assert last.usage is not None
    assert (last.usage.finish, last.usage.answer_tokens) == ("cancelled", 0)


def test_an_answer_is_read_aloud_while_it_is_made(live: Live, chat: Chat, voice: Path) -> None:
    with open_spoken(live, aloud=True) as spoken:
        with spoken.aloud(chat, chat.ask("What do you hear?", sampling=Sampling(0.0, 1.0, 0, 64))) as said:
            answer = "".join(delta.text for delta in said)
        assert list(spoken.lines(iter([]))) == []  # the lines end: it is read to its end
    assert " ".join(voice.read_text("utf-8").split()) == " ".join(answer.split())


def test_the_next_line_and_ctrl_c_stop_the_voice(live: Live, chat: Chat, voice: Path) -> None:
    text = "One is read. Two is not. Three neither."
    with open_spoken(live, aloud=True) as spoken:
        assert spoken._speaker is not None
        spoken._speaker.push(text)
        until(voice.exists)
        assert next(spoken.lines(iter(["\n"]))) == "\n"
        spoken._speaker.wait()
        assert "Two" not in voice.read_text("utf-8")
        with pytest.raises(KeyboardInterrupt):
            _interrupt(spoken, chat, "Four is read. Five is not. ")
        spoken._speaker.wait()
        assert not [line for line in voice.read_text("utf-8").splitlines() if "Five" in line]


def _interrupt(spoken: Spoken, chat: Chat, text: str) -> None:
    assert spoken._speaker is not None
    with spoken.aloud(chat, chat.ask("What?", sampling=LONG, seed=2)) as said:
        spoken._speaker.push(text)
        next(said)
        raise KeyboardInterrupt


def test_who_speaks_stops_the_voice(live: Live, voice: Path) -> None:
    with open_spoken(live, aloud=True) as spoken:
        assert spoken._speaker is not None
        spoken._speaker.push("One is read. Two is not. ")
        until(voice.exists)
        spoken._began()
        spoken._speaker.wait()
    assert "Two" not in voice.read_text("utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has a voice whatever the PATH")
def test_no_voice_is_one_note_and_the_chat_goes_on(
    live: Live, chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    notes: list[str] = []
    with open_spoken(live, notes, aloud=True) as spoken, spoken.aloud(chat, chat.ask("What do you hear?")) as said:
        assert "".join(delta.text for delta in said)
    (note,) = notes
    assert note.startswith("this system has no voice to read answers aloud; ")
    assert note.endswith("they are only shown")


def test_talk_without_a_model_or_a_microphone_is_one_line(
    live: Live, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_spoken(live) as spoken:
        assert list(spoken.lines(iter(["/talk\n", "what?\n"]))) == ["what?\n"]
    assert capsys.readouterr().err == (
        "vllama: /talk needs a speech model; give --speech-model DIR, a folder with a Whisper in CTranslate2's format\n"
    )
    with open_spoken(live, model=tmp_path / "none") as spoken:
        assert list(spoken.lines(iter(["/talk\n", "what?\n"]))) == ["what?\n"]
    assert "none: no such folder; the speech model is" in capsys.readouterr().err


def test_hands_free_listening_needs_a_microphone_and_a_model() -> None:
    with pytest.raises(SpecError, match="--speech needs a microphone; give --mic DEVICE"):
        Ears(Speech(hands_free=True), microphone=False)
    with pytest.raises(SpecError, match="--speech needs a speech model; give --speech-model DIR"):
        Ears(Speech(hands_free=True), microphone=True)
