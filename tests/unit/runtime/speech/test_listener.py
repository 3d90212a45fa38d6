from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.live.played import FastClock, PlayedMicrophone
from tests.live.spoken import NEEDS_ESPEAK, Recording, has_espeak, say, silence
from vllama.runtime.errors import MediaError
from vllama.runtime.speech.listener import Listener, Words, words_between
from vllama.runtime.speech.transcribe import Transcriber
from vllama.runtime.speech.voice_activity import VoiceActivity

pytest.importorskip("faster_whisper", reason="needs the extra `speech`")
from tests.live.tiny_whisper import write_tiny_whisper

pytestmark = pytest.mark.skipif(not has_espeak(), reason=NEEDS_ESPEAK)
SPEED = 5.0
QUESTION = "Is there a red circle?"


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    return Transcriber(write_tiny_whisper(tmp_path_factory.mktemp("whisper"), QUESTION))


@pytest.fixture
def play() -> Callable[..., PlayedMicrophone]:
    """A microphone that hears these sounds, five times as fast as time."""
    return lambda *sounds, **more: Recording(FastClock(SPEED), *sounds, **more)


class Heard:
    """What a listener told, and when, on the microphone's clock."""

    def __init__(self, microphone: PlayedMicrophone) -> None:
        self.clock = microphone.clock
        self.words: list[Words] = []
        self.began: list[float] = []
        self.notes: list[str] = []
        self.react: Callable[[], None] = lambda: None

    def listen(self, microphone: PlayedMicrophone, transcriber: Transcriber, **more: object) -> Listener:
        self.listener = Listener(
            microphone, VoiceActivity(), transcriber, self.words.append,
            began=self._begin, note=self.notes.append, **more,  # type: ignore[arg-type]
        )  # fmt: skip
        return self.listener

    def until(self, moment: float, words: int = 0) -> None:
        """Until so much of the sound was played and listened to, and so much of it was written down."""
        time.sleep(max(0.0, (moment - self.clock.now()) / SPEED))
        end = time.monotonic() + 30.0
        while time.monotonic() < end and not self._is_done(moment, words):
            time.sleep(0.02)
        time.sleep(0.3)  # in which nothing more should come

    def _is_done(self, moment: float, words: int) -> bool:
        listener = self.listener
        return (listener._at is None or listener._at >= moment) and not listener._said and len(self.words) >= words

    def _begin(self) -> None:
        self.began.append(self.clock.now())
        self.react()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [each.name for each in threading.enumerate() if each.name in ("listener", "transcriber")]


def test_a_question_is_heard_once_and_at_its_time(
    play: Callable[..., PlayedMicrophone], transcriber: Transcriber
) -> None:
    question = say("What is she cooking?")
    microphone = play(silence(2.0), question, silence(3.0), question)
    heard = Heard(microphone)
    with heard.listen(microphone, transcriber):
        heard.until(10.0, words=2)
    length = len(question) / 16000
    assert [words.text for words in heard.words] == [QUESTION, QUESTION]
    for words, start in zip(heard.words, (2.0, 5.0 + length), strict=True):
        assert start - 0.5 < words.start < start + 0.1
        assert start + length - 0.3 < words.end < start + length + 0.6
    assert len(heard.began) == 2
    assert heard.began[0] < heard.words[0].end, "that somebody speaks is known before he has spoken"
    assert heard.notes == []


def test_beeps_and_noise_ask_nothing(play: Callable[..., PlayedMicrophone], transcriber: Transcriber) -> None:
    time = np.arange(16000) / 16000
    beep = (0.5 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    noise = (0.2 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    microphone = play(silence(1.0), beep, silence(1.0), noise, silence(1.0), beep)
    heard = Heard(microphone)
    with heard.listen(microphone, transcriber):
        heard.until(8.0)
    assert (heard.began, heard.words) == ([], [])


def test_the_own_voice_asks_nothing_and_stops_nothing(
    play: Callable[..., PlayedMicrophone], transcriber: Transcriber
) -> None:
    own = say(
        "The circle is red, so yes. A blue star comes after it, and then three beeps are heard.", "en-us", peak=0.1
    )
    microphone = play(silence(0.5), own, silence(1.0), own, silence(1.0))
    heard = Heard(microphone)
    with heard.listen(microphone, transcriber, sounds=lambda moment: moment < 2.5 + 2 * len(own) / 16000):
        heard.until(3.0 + 2 * len(own) / 16000)
    assert (heard.began, heard.words) == ([], [])
    microphone = play(silence(0.5), own, silence(1.0), own, silence(1.0))
    heard = Heard(microphone)
    with heard.listen(microphone, transcriber):
        heard.until(3.0 + 2 * len(own) / 16000, words=2)
    assert len(heard.words) >= 2, "the same sound asks where it is not known to be the own voice"


@pytest.mark.parametrize("goes_on", [True, False])
def test_somebody_louder_interrupts_the_own_voice_and_asks_if_he_goes_on(
    play: Callable[..., PlayedMicrophone], transcriber: Transcriber, goes_on: bool
) -> None:
    own = say("The circle is red, so yes. A blue star comes after it, and then three beeps are heard. " * 2, peak=0.1)
    asked = say(
        "Wait! Is there a red circle, and what is on the left of it?" if goes_on else "Stop it now.", "en+m5", peak=0.6
    )
    at = 5 * 16000
    mixed = own.copy()
    mixed[at : at + len(asked)] += asked
    stopped: list[float] = []
    microphone = play(mixed)
    heard = Heard(microphone)

    def sounds(moment: float) -> bool:
        return not stopped or moment <= stopped[0] + 0.5

    def stop() -> None:
        stopped.append(listener.began_at)
        microphone._data[0, at + len(asked) :] = 0.0  # the voice is silent from here on

    heard.react = stop
    listener = heard.listen(microphone, transcriber, sounds=sounds)
    with listener:
        heard.until(11.0, words=int(goes_on))
    assert len(heard.began) == 1
    assert 5.0 < listener.began_at < 7.5  # the sooner the better, but a busy machine listens late
    assert len(heard.words) == goes_on, heard.words


def test_what_is_said_while_muted_or_paused_is_not_heard(
    play: Callable[..., PlayedMicrophone], transcriber: Transcriber
) -> None:
    question = say("What is she cooking, and where?")
    microphone = play(silence(1.0), question, silence(4.0), question, silence(4.0), question)
    step = len(question) / 16000 + 4.0
    heard = Heard(microphone)
    with heard.listen(microphone, transcriber) as listener:
        listener.mute(True)
        heard.until(step - 2.5)
        assert heard.words == []
        listener.mute(False)
        microphone.pause()
        heard.until(2 * step - 2.5)
        assert heard.words == []
        microphone.resume()
        heard.until(3 * step + 1.0, words=1)
    assert len(heard.words) == 1
    assert heard.words[0].start > 2 * step


def test_what_is_said_before_it_listens_is_not_heard(
    play: Callable[..., PlayedMicrophone], transcriber: Transcriber
) -> None:
    microphone = play(say("What is she cooking, and where is it that she does it?"))
    heard = Heard(microphone)
    time.sleep(3.6 / SPEED)
    with heard.listen(microphone, transcriber):
        heard.until(6.0)
    assert heard.words == []


def test_closing_in_the_middle_of_a_question_ends_at_once(
    play: Callable[..., PlayedMicrophone], transcriber: Transcriber
) -> None:
    microphone = play(say("What is she cooking, and where?"))
    heard = Heard(microphone)
    with heard.listen(microphone, transcriber) as listener:
        while not listener.speaking:
            time.sleep(0.005)
        begun = time.monotonic()
    assert time.monotonic() - begun < 5.0
    assert heard.words == []


def test_words_between_two_moments(play: Callable[..., PlayedMicrophone], transcriber: Transcriber) -> None:
    microphone = play(say("Is there a red circle?"))
    time.sleep(3.0 / SPEED)
    words = words_between(microphone, transcriber, 0.2, 2.0)
    assert words.text == QUESTION
    assert (words.start, words.end) == pytest.approx((0.2, 2.0), abs=0.01)
    for start, end in ((1.0, 1.1), (2.0, 1.0)):
        with pytest.raises(MediaError, match="heard nothing in that time"):
            words_between(microphone, transcriber, start, end)
    microphone.pause()
    with pytest.raises(MediaError, match="see whether it is on"):
        words_between(microphone, transcriber, 0.0, 2.0)


def test_of_a_long_speech_the_newest_is_taken(transcriber: Transcriber) -> None:
    clock = FastClock(SPEED)
    microphone = Recording(clock, silence(1.0), keep=30.0)
    clock.advance(100.0)
    time.sleep(0.1)
    now = microphone.clock.now()
    words = words_between(microphone, transcriber, 1.0, now)
    assert now - 30.5 < words.start < now - 25.0
