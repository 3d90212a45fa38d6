"""Questions by voice: what is said into a microphone, found, cut out and written down in the background."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import MediaError, VllamaError
from ..live.senses import SoundSource
from ..types import Float32, Samples
from .echo import Echo
from .transcribe import Transcriber
from .utterances import RULES, Rules, Utterances
from .voice_activity import SAMPLE_RATE, WINDOW, VoiceActivity

_STEP = WINDOW / SAMPLE_RATE  # seconds
_POLL_SECONDS = 0.2
_REST_SECONDS = 0.02
_TICK = 1e-3  # seconds by which sound may seem to be missing through rounding
_AHEAD = 0.5  # seconds by which a microphone's clock may correct itself
_CATCH_UP = 1.0  # seconds of the past that are listened to after a gap
_GOES_ON = 0.3  # seconds by which who interrupts the own voice must outlast its last echo
_LEAST = 0.2  # seconds in which something can be said
_MARGIN = 0.1  # seconds that a microphone may forget meanwhile
_PATIENCE = 2.0  # seconds for the last of it to come
_WAITING = 4  # utterances that wait to be written down; the oldest gives way


@dataclass(frozen=True)
class Words:
    """What was said. start, end: seconds of the microphone's clock."""

    text: str
    start: float
    end: float


class Listener:
    """Listens from construction to `close`, on two threads: one notices speech as it comes, one writes it down.

    While the own voice sounds, only what is clearly louder counts as speech (`echo`). If it does not go on for most of
    a second after the voice was stopped, it was the voice after all, or no more than "stop", and is dropped.

    Args:
        microphone: at 16 kHz; it stays open. What is said while it is paused is not heard, and what was begun before
            is dropped.
        activity: closed with this.
        heard: told what was said, on a thread of the listener.
        began: told as soon as somebody speaks, a third of a second after the first sound; on another thread of it.
        sounds: whether the own voice could be heard at a moment of the microphone's clock; `Speaker.sounds`.
        note: told in one line what a person should know.

    Attributes:
        began_at: when somebody last began to speak, in seconds of the microphone's clock.
    """

    def __init__(
        self,
        microphone: SoundSource,
        activity: VoiceActivity,
        transcriber: Transcriber,
        heard: Callable[[Words], None],
        *,
        began: Callable[[], None] = lambda: None,
        sounds: Callable[[float], bool] = lambda moment: False,
        note: Callable[[str], None] = lambda text: None,
        rules: Rules = RULES,
    ) -> None:
        self._microphone = microphone
        self._activity = activity
        self._transcriber = transcriber
        self._heard, self._began, self._sounds, self._note = heard, began, sounds, note
        self._pad = rules.pad
        self._on = rules.on
        self._utterances = Utterances(rules)
        self._echo = Echo()
        self._over_voice = False  # it began while the own voice sounded
        self._at: float | None = None  # the moment up to which was listened
        self.began_at = -math.inf
        self._muted = self._closed = False
        self._said: deque[Samples] = deque(maxlen=_WAITING)
        self._news = threading.Condition()
        self._threads = [
            threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
            for name, work in (("listener", self._listen), ("transcriber", self._write))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def speaking(self) -> bool:
        """Somebody speaks right now."""
        return self._utterances.speaking

    def mute(self, muted: bool) -> None:
        """Do not listen until it is called again; what was begun is dropped."""
        with self._news:
            self._muted = muted
            if muted:
                self._said.clear()

    def close(self) -> None:
        """End the threads; what is just being written down is not told any more. A second call does nothing."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        for thread in self._threads:
            thread.join()
        self._activity.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            while not self._closed:
                work()
        except VllamaError as error:
            self._note(f"nobody listens any more: {error}")

    def _listen(self) -> None:
        """The next window."""
        if self._muted or self._microphone.status.state == "paused":
            self._forget()
            self._rest()
            return
        sound = None if self._at is None else self._microphone.clip(self._at, _STEP, _POLL_SECONDS)
        if sound is not None:
            self._at = sound.end
            self._hear(sound)
        elif not self._is_to_come():
            self._finish(self._utterances.finish())
            self._skip()
        else:
            self._rest()

    def _is_to_come(self) -> bool:
        """Whether what follows on what was heard can still come: it is not in a gap."""
        heard = self._microphone.heard()
        return heard is not None and self._at is not None and heard[0] - _TICK <= self._at <= heard[1] + _AHEAD

    def _skip(self) -> None:
        """Go on behind a gap, or begin now."""
        heard = self._microphone.heard()
        self._activity.reset()
        if heard is not None:
            self._at = heard[1] if self._at is None else max(heard[0], heard[1] - _CATCH_UP)
        self._rest()

    def _rest(self) -> None:
        with self._news:
            self._news.wait_for(lambda: self._closed, _REST_SECONDS)

    def _forget(self) -> None:
        """What was said until now is never listened to."""
        heard = self._microphone.heard()
        self._utterances.drop()
        self._activity.reset()
        self._at = None if heard is None else heard[1]

    def _hear(self, sound: Samples) -> None:
        assert sound.sample_rate == SAMPLE_RATE, sound.sample_rate
        window = sound.data[0]
        (probability,) = self._activity.push(window)
        before, own = self.speaking, self._sounds(sound.start)
        if own and not before:
            probability = self._over(window, float(probability))
        said = self._utterances.push(window, sound.end, float(probability))
        if self.speaking and not before:
            self._over_voice, self.began_at = own, sound.end
            self._began()
        if said is not None:
            self._finish(said)

    def _over(self, window: Float32, probability: float) -> float:
        """How likely it is that somebody else speaks while the own voice sounds."""
        if self._echo.hear(window):
            return probability
        if probability >= self._on:
            self._echo.learn()
        return 0.0

    def _finish(self, said: Samples | None) -> None:
        if said is None:
            return
        if self._over_voice and self._sounds(said.end - self._pad - _GOES_ON):
            for window in np.split(said.data[0], said.data.shape[1] // WINDOW):
                self._echo.hear(window)
                self._echo.learn(proved=True)
            return
        with self._news:
            if not self._muted:
                self._said.append(said)
                self._news.notify_all()

    def _write(self) -> None:
        with self._news:
            self._news.wait_for(lambda: self._said or self._closed)
            if self._closed:
                return
            said = self._said.popleft()
        text = self._transcriber.words(said.data[0])
        if text and not (self._closed or self._muted):
            self._heard(Words(text, said.start, said.end))


def words_between(microphone: SoundSource, transcriber: Transcriber, start: float, end: float) -> Words:
    """What was said from start to end, in seconds of the microphone's clock; of more than it keeps the newest.

    Raises:
        MediaError: nothing was heard in that time.
        BackendError: it cannot be written down.
    """
    heard = microphone.heard()
    if heard is not None and heard[0] > start:
        start = heard[0] + _MARGIN
    sound = microphone.clip(start, end - start, _PATIENCE) if end - start >= _LEAST else None
    if sound is None:
        raise MediaError("the microphone heard nothing in that time; see whether it is on, and speak a little longer")
    return Words(transcriber.words(sound.data[0]), sound.start, sound.end)
