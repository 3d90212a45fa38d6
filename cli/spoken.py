"""A conversation by voice: questions that are spoken, answers that are read aloud."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from vllama.runtime import Chat, Delta, Live, SpecError, VllamaError
from vllama.runtime.speech.listener import Listener, Words, words_between
from vllama.runtime.speech.speaker import Speaker
from vllama.runtime.speech.transcribe import Transcriber
from vllama.runtime.speech.voice_activity import VoiceActivity
from vllama.runtime.speech.voices import find_voice, why_no_voice

from .entered import EnteredLines
from .say import say

_TALK = "/talk"
_NO_MODEL = "needs a speech model; give --speech-model DIR, a folder with a Whisper in CTranslate2's format"


@dataclass(frozen=True)
class Speech:
    """What the options say about voice. model: folder of a Whisper."""

    model: Path | None = None
    language: str | None = None
    hands_free: bool = False
    aloud: bool = False
    headphones: bool = False


class Ears:
    """What turns sound into words, opened as early as hands-free needs it, else when it is first used.

    Raises:
        SpecError: hands-free listening lacks a microphone or a model.
        BackendUnavailableError, FileError: it cannot be opened.
    """

    def __init__(self, speech: Speech, *, microphone: bool) -> None:
        self.speech = speech
        self._transcriber: Transcriber | None = None
        self.activity: VoiceActivity | None = None
        if not speech.hands_free:
            return
        if not microphone:
            raise SpecError("--speech needs a microphone; give --mic DEVICE")
        if speech.model is None:
            raise SpecError(f"--speech {_NO_MODEL}")
        self.activity = VoiceActivity()
        self.transcriber()

    def transcriber(self) -> Transcriber:
        """The open Whisper."""
        if self._transcriber is None:
            if self.speech.model is None:
                raise SpecError(f"{_TALK} {_NO_MODEL}")
            threads = max(1, (os.cpu_count() or 1) // 2)  # the others go on seeing and answering
            self._transcriber = Transcriber(self.speech.model, language=self.speech.language, threads=threads)
        return self._transcriber


class Spoken:
    """What a live conversation uses of it; without any voice it changes nothing. Use it in a `with` block.

    Args:
        typing: called when somebody begins to speak.
        note: told in one line what a person should know.

    Attributes:
        help: lines for /help.
    """

    help: ClassVar = {_TALK: "ask by voice: speak, then press Enter"}

    def __init__(
        self,
        ears: Ears,
        live: Live,
        entered: EnteredLines,
        *,
        typing: Callable[[], None],
        note: Callable[[str], None],
    ) -> None:
        self._ears = ears
        self._live = live
        self._entered = entered
        self._typing = typing
        self._chat: Chat | None = None  # that answers
        self._interrupted = False
        self._said: Words | None = None  # last
        self._asked: Words | None = None  # the question that is being answered, if it was spoken
        self._opened = ExitStack()
        self._speaker: Speaker | None = None
        self._listener: Listener | None = None
        if ears.speech.aloud:
            self._speaker = self._open_speaker(note)
        if ears.speech.hands_free:
            self._listener = self._open_listener(note, headphones=ears.speech.headphones)
        entered.interrupted = self.hush

    @property
    def states(self) -> list[str]:
        """For the status line."""
        if self._listener is None:
            return []
        return ["somebody speaks" if self._listener.speaking else "listening"]

    def lines(self, typed: Iterator[str]) -> Iterator[str]:
        """Questions and commands, typed and spoken."""
        for line in typed:
            self.hush()
            said = self._said
            self._asked = said if said is not None and said.text == line.strip() else None
            if line.strip() != _TALK:
                yield line
            elif spoken := self._talk(typed):
                yield spoken
        if self._speaker is not None:
            self._speaker.wait()  # of lines from a pipe the last answer is read to its end

    @contextmanager
    def aloud(self, chat: Chat, deltas: Iterable[Delta]) -> Iterator[Iterator[Delta]]:
        """An answer, read aloud as it is made; who speaks meanwhile stops it."""
        self._interrupted = False
        self._chat = chat
        if self._interrupted or self._goes_on():  # the listener's thread may have set it since
            self._interrupted = True
            chat.cancel()
        try:
            yield self._read(deltas)
        except BaseException:  # Ctrl-C above all
            self.hush()
            raise
        finally:
            self._chat = None
        if self._interrupted:
            print("stopped, somebody speaks", file=sys.stderr)

    def hush(self) -> None:
        """Stop reading."""
        if self._speaker is not None:
            self._speaker.stop()

    def close(self) -> None:
        """End what was opened; a second call does nothing."""
        self._opened.close()

    def __enter__(self) -> Spoken:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self, deltas: Iterable[Delta]) -> Iterator[Delta]:
        for delta in deltas:
            if self._speaker is not None and not self._interrupted:
                self._speaker.push(delta.text)
            yield delta
        if self._speaker is not None and not self._interrupted:
            self._speaker.finish()

    def _began(self) -> None:
        """Somebody speaks; on the listener's thread."""
        self._interrupted = True  # before the chat is looked for: `aloud` looks for it after the chat is there
        chat = self._chat
        if chat is not None:
            chat.cancel()
        self.hush()
        self._typing()

    def _goes_on(self) -> bool:
        """Whether somebody asked, and speaks again before it is answered."""
        listener, asked = self._listener, self._asked
        return listener is not None and asked is not None and listener.speaking and listener.began_at > asked.end

    def _heard(self, words: Words) -> None:
        """Somebody said that; on a thread of the listener."""
        if text := words.text.lstrip("/ "):
            self._said = replace(words, text=text)
            if not sys.stdin.isatty():
                print(f"heard: {text}", file=sys.stderr)
            self._entered.enter(text)

    def _talk(self, typed: Iterator[str]) -> str:
        """What is said until the next line; that line itself if it is not empty; "" if there is nothing to ask."""
        try:
            microphone, transcriber = self._live.microphone, self._ears.transcriber()
            if microphone is None:
                raise SpecError(f"{_TALK} needs a microphone; begin the conversation with --mic DEVICE")
            with self._muted():
                start = self._live.clock.now()
                print("speak, then press Enter", file=sys.stderr)
                line = next(typed, "").strip()
                if line:
                    return line
                words = words_between(microphone, transcriber, start, self._live.clock.now())
            print(f"heard: {words.text}" if words.text else "heard no words", file=sys.stderr)
            return words.text.lstrip("/ ")
        except VllamaError as error:
            say(error)
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
        return ""

    @contextmanager
    def _muted(self) -> Iterator[None]:
        """The same words are not heard twice."""
        if self._listener is None:
            yield
            return
        self._listener.mute(True)
        try:
            yield
        finally:
            self._listener.mute(False)

    def _open_speaker(self, note: Callable[[str], None]) -> Speaker | None:
        voice = find_voice()
        if voice is None:
            note(f"{why_no_voice()}; they are only shown")
            return None
        speaker = Speaker(voice, note, self._live.clock.now)
        self._opened.callback(speaker.close)
        return speaker

    def _open_listener(self, note: Callable[[str], None], *, headphones: bool) -> Listener:
        microphone, activity, speaker = self._live.microphone, self._ears.activity, self._speaker
        assert microphone is not None
        assert activity is not None
        listener = Listener(
            microphone, activity, self._ears.transcriber(), self._heard, began=self._began, note=note,
            sounds=(lambda moment: False) if speaker is None or headphones else speaker.sounds,
        )  # fmt: skip
        self._opened.callback(listener.close)
        return listener
