"""A live microphone: its newest seconds, and when each of them was captured."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..errors import DeviceError
from ..resample import Resampler
from ..types import Samples
from .clock import Clock
from .microphones import LOOPBACK, find_sound
from .sound_ring import SampleClock, SoundRing
from .sound_source import Block, SoundStream, abandon, open_sound
from .source import Source

_FIRST_SECONDS = 5.0  # until the first sound after opening
_SILENT_SECONDS = 1.5  # a microphone in a quiet room sends zeros; one that sends nothing is lost
_REOPEN_SECONDS = 10.0
_KEPT_SECONDS = 30.0
_ZERO_SECONDS = 3.0  # of exact zeros from the start on
_DENIED_IS_SILENT = ("darwin", "win32")  # systems that give zeros to a program that may not listen
_POLL_SECONDS = 0.1
_PIECES = 50  # a second, that are resampled together: what is heard last should not wait for more


class Microphone(Source):
    """Captures on its own thread from construction to `close`; the newest 30 seconds are kept.

    Args:
        device: "default", an index, a name or a part of it, or "loopback" (`microphones.find_sound`).
        sample_rate: Hz of what `clip` gives; a device that refuses it is resampled from its own.
        note: told in one line when the microphone is lost, when it is back, and where it gives only silence though
            it should not; on the microphone's thread.

    Raises:
        DeviceError: it cannot be opened, or sends nothing; PortAudio is missing.
    """

    def __init__(self, device: str, sample_rate: int, clock: Clock, note: Callable[[str], None]) -> None:
        self._source, self._sample_rate = find_sound(device), sample_rate
        super().__init__(self._source.name, clock, note)
        self._ring = SoundRing(sample_rate, _KEPT_SECONDS)
        suspicious = sys.platform in _DENIED_IS_SILENT and device != LOOPBACK
        self._zeros: int | None = 0 if suspicious else None  # samples; None: not counted
        self._begin()

    def clip(self, start: float, seconds: float, timeout: float) -> Samples | None:
        """So many seconds from a time on, as soon as they were heard: float32 (1, n) at sample_rate.

        None: not heard within timeout, or never: a gap, it is paused or lost, or older than what is kept.
        """
        count = round(seconds * self._sample_rate)
        until = self._clock.now() + timeout
        with self._news:
            while True:
                found = self._ring.clip(start, count)
                if isinstance(found, tuple):
                    return Samples(found[0], found[1][None], self._sample_rate)
                left = until - self._clock.now()
                if found is None or self._state != "on" or left <= 0:
                    return None
                self._news.wait(left)

    def heard(self) -> tuple[float, float] | None:
        """From and to, in seconds of the clock, of the newest unbroken stretch that is kept; None: nothing yet."""
        with self._news:
            return self._ring.heard()

    def close(self) -> None:
        """As every source; a sound server that hangs is left behind."""
        super().close()
        if self._thread.is_alive():
            abandon()

    def _follow(self) -> None:
        with open_sound(self._source, self._sample_rate, self._clock) as stream:
            ear = _Ear(stream.rate, self._ring)
            last, begun = self._clock.now(), False
            while self._wanted():
                blocks = stream.read(_POLL_SECONDS)
                if blocks:
                    self._take(blocks, ear)
                    last, begun = self._clock.now(), True
                elif self._mute(stream, self._clock.now() - last, begun):
                    ear.stop()

    def _take(self, blocks: list[Block], ear: _Ear) -> None:
        with self._news:
            self._dropped += sum(ear.take(block) for block in blocks)
            self._news.notify_all()
        self._arrived(sum(len(block.data) for block in blocks) * self._sample_rate // ear.rate)
        self._look_for_zeros(blocks, ear.rate)

    def _look_for_zeros(self, blocks: list[Block], rate: int) -> None:
        """Say once that it may not be allowed, where only zeros came since the start."""
        if self._zeros is None:
            return
        if any(block.data.any() for block in blocks):
            self._zeros = None
            return
        self._zeros += sum(len(block.data) for block in blocks)
        if self._zeros >= _ZERO_SECONDS * rate:
            self._zeros = None
            self._note(
                f"{self.name}: gives only silence; allow the microphone in the system's privacy settings, or turn it on"
            )

    def _mute(self, stream: SoundStream, seconds: float, begun: bool) -> bool:
        """Whether it was so long without a sound that it counts as lost; it stays open for a while, it may wake up."""
        if stream.ended:
            raise DeviceError(f"{self.name}: unplugged, or its sound server ended; plug it in, or start that again")
        if seconds > (_REOPEN_SECONDS if begun else _FIRST_SECONDS):
            raise DeviceError(f"{self.name}: open, but no sound comes; see whether it is asleep, or used elsewhere")
        if begun and seconds > _SILENT_SECONDS:
            self._lose(DeviceError(f"{self.name}: no sound comes; see whether it is asleep, or used elsewhere"))
            return True
        return False


class _Ear:
    """Brings the blocks of one open input into the ring, resampled, each unbroken stretch on a clock of its own."""

    def __init__(self, rate: int, ring: SoundRing) -> None:
        self.rate, self._ring = rate, ring
        self._clock: SampleClock | None = None  # None: the next block begins a stretch
        self._resampler = Resampler(rate, ring.sample_rate)
        self._first = self._next = 0  # numbers of the stretch's first sample and of the next one

    def take(self, block: Block) -> int:
        """How many samples, at the ring's rate, were lost before it."""
        lost = 0.0
        if self._clock is not None:
            late = block.captured - self._clock.time(self._next - self._first)
            whole = block.first == self._next and not block.lossy
            lost = self._clock.hear(block.first - self._first, block.captured) if whole else max(late, 0.0)
            if lost or not whole:
                self._clock = None
        if self._clock is None:
            self._begin(block)
        assert self._clock is not None
        self._next = block.first + len(block.data)
        self._ring.move(self._clock.time(0))
        self._ring.add(self._resampler.push(block.data[None])[0])
        return round(lost * self._ring.sample_rate)

    def stop(self) -> None:
        """What comes next does not follow on what came."""
        self._clock = None

    def _begin(self, block: Block) -> None:
        self._clock = SampleClock(self.rate, block.captured)
        self._first = block.first
        self._resampler = Resampler(self.rate, self._ring.sample_rate, block=self.rate // _PIECES)
        self._ring.begin(block.captured)
