"""Speech of espeak-ng as arrays and files, and sounds that are none."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vllama.runtime.capture.clock import Clock

from .played import PlayedMicrophone
from .pulse import read_wav

RATE = 16000
NEEDS_ESPEAK = "needs espeak-ng: install it with apt-get"
Sound = NDArray[np.float32]


def has_espeak() -> bool:
    return shutil.which("espeak-ng") is not None


def say(words: str, voice: str = "en", *options: str, peak: float = 0.5) -> Sound:
    """float32 (n,) at 16 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        subprocess.run(["espeak-ng", "-v", voice, *options, "-w", path, words], check=True, capture_output=True)
        sound = read_wav(path, RATE)
    return np.asarray(sound * (peak / np.abs(sound).max()), np.float32)


def silence(seconds: float) -> Sound:
    return np.zeros(round(seconds * RATE), np.float32)


class Recording(PlayedMicrophone):
    """A microphone that hears these sounds, then nothing for minutes; keep: how many seconds it remembers."""

    def __init__(self, clock: Clock, *sounds: Sound, keep: float = 120.0) -> None:
        super(PlayedMicrophone, self).__init__(clock)
        self._data, self._rate = np.concatenate((*sounds, silence(240.0)))[None], RATE
        self._since, self._keep = 0.0, keep
        self._lock = threading.Lock()

    def heard(self) -> tuple[float, float] | None:
        now = self.clock.now()
        return None if self.state != "on" else (max(self._since, now - self._keep), now)


def write_wav(path: Path, *sounds: Sound) -> Path:
    """One after the other, 16 bit."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.concatenate(sounds).clip(-1, 1) * 32767).astype(np.int16).tobytes())
    return path
