"""A sound input that PortAudio has open, and in words why it has not."""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DeviceError
from ..types import Float32
from .clock import Clock

_LATENCY = 0.1  # seconds that PortAudio keeps, in case nobody comes for them
_CLOSE_SECONDS = 3.0
_BLOCKS = 400  # ten seconds
_MAX_AGE = 5.0  # seconds; some systems say 0 instead of when a block was captured
_REFUSED_RATE, _REFUSED_CHANNELS, _UNAVAILABLE = -9997, -9998, -9985  # PortAudio's numbers
_MISSING = {
    "linux": "install it: sudo apt-get install libportaudio2   (or: sudo dnf install portaudio)",
    "darwin": "install sounddevice again: its package for macOS brings PortAudio",
    "win32": "install sounddevice again: its package for Windows brings PortAudio",
}
# PortAudio lists the devices once, when it is started; and it is told through the environment which source to open.
_portaudio = threading.RLock()
_open_streams = 0


@dataclass(frozen=True)
class SoundDevice:
    """An input of PortAudio. sample_rate: its own, Hz."""

    index: int
    name: str
    host: str
    channels: int
    sample_rate: int
    is_default: bool


@dataclass(frozen=True)
class SoundSource:
    """Where sound comes from.

    name: what a person calls it. device, host: of PortAudio; "": its default. pulse: what PulseAudio, behind that
    device, is asked for.
    """

    name: str
    device: str = ""
    host: str = ""
    pulse: str = ""


@dataclass(frozen=True, eq=False)
class Block:
    """Sound as it came. first: the number of its first sample. captured: when that was, on the clock; it may be late.

    data: float32 (n,), mono. lossy: sound was lost right before it.
    """

    first: int
    captured: float
    data: Float32
    lossy: bool


class SoundStream:
    """An open input; the blocks wait here, ten seconds of them, until they are taken."""

    def __init__(self, rate: int, channels: int, clock: Clock) -> None:
        self.rate, self._channels, self._clock = rate, channels, clock
        self.ended = False  # PortAudio gave it up
        self._blocks: deque[Block] = deque(maxlen=_BLOCKS)
        self._count = 0
        self._news = threading.Event()

    def read(self, timeout: float) -> list[Block]:
        """What has come; nothing, if nothing did within so many seconds."""
        self._news.wait(timeout)
        self._news.clear()
        return [self._blocks.popleft() for _ in range(len(self._blocks))]

    def heard(self, data: Any, frames: int, times: Any, flags: Any) -> None:
        """PortAudio's callback, on its thread.

        A block is as old as PortAudio says, which knows what waited in buffers, but not younger than it is long: ALSA
        behind PulseAudio gives the time of delivery for that of its first sample.
        """
        now = self._clock.now()
        age = times.currentTime - times.inputBufferAdcTime
        age = max(frames / self.rate, age if 0.0 <= age < _MAX_AGE else 0.0)
        sound = np.frombuffer(data, np.float32).reshape(frames, self._channels).mean(1)
        self._blocks.append(Block(self._count, now - age, sound, bool(flags.input_overflow)))
        self._count += frames
        self._news.set()

    def end(self) -> None:
        """PortAudio's word that no more will come."""
        self.ended = True
        self._news.set()


def list_devices() -> list[SoundDevice]:
    """The inputs that there are now.

    Raises:
        DeviceError: PortAudio is missing, or cannot list them.
    """
    with _portaudio:
        return _listed(_started())


@contextmanager
def open_sound(source: SoundSource, sample_rate: int, clock: Clock) -> Iterator[SoundStream]:
    """An open input, at sample_rate where the device can, else at its own; closed on leaving.

    Raises:
        DeviceError: it cannot be opened.
    """
    global _open_streams
    _quieten(+1)
    try:
        with _portaudio:
            library = _started()
            stream, sound = _opened(library, source, _present(library, source), sample_rate, clock)
            _open_streams += 1
        try:
            yield sound
        finally:
            _let_go(stream)
    finally:
        _quieten(-1)


def abandon() -> None:
    """A sound server hangs, and what waits for it with it: the end of the program is not to wait, too."""
    import sounddevice

    atexit.unregister(sounddevice._exit_handler)


def _let_go(stream: Any) -> None:
    """Close it, in seconds. When PulseAudio's server dies at the wrong moment its client library never returns."""
    closing = threading.Thread(target=_close, args=(stream,), name="closing a microphone", daemon=True)
    closing.start()
    closing.join(_CLOSE_SECONDS)
    if closing.is_alive():
        abandon()


def _close(stream: Any) -> None:
    global _open_streams
    stream.abort(ignore_errors=True)
    stream.close(ignore_errors=True)
    with _portaudio:
        _open_streams -= 1


def _listed(library: Any) -> list[SoundDevice]:
    try:
        hosts = [host["name"] for host in library.query_hostapis()]
        devices = library.query_devices()
    except library.PortAudioError as error:
        raise DeviceError(f"PortAudio cannot list the microphones ({error}); restart the sound server") from error
    default = library.default.device[0]
    return [
        SoundDevice(
            device["index"],
            device["name"],
            hosts[device["hostapi"]],
            device["max_input_channels"],
            round(device["default_samplerate"]),
            device["index"] == default,
        )
        for device in devices
        if device["max_input_channels"] > 0
    ]


def _present(library: Any, source: SoundSource) -> SoundDevice:
    for device in _listed(library):
        named = device.name == source.device and device.host == source.host
        if named or (not source.device and device.is_default):
            return device
    raise DeviceError(f"{source.name}: there is no such microphone now; plug it in, or start the sound server")


def _opened(
    library: Any, source: SoundSource, device: SoundDevice, sample_rate: int, clock: Clock
) -> tuple[Any, SoundStream]:
    failed: Exception | None = None
    for rate in dict.fromkeys((sample_rate, device.sample_rate)):
        for channels in dict.fromkeys((1, min(2, device.channels))):
            sound = SoundStream(rate, channels, clock)
            try:
                with _asking_for(source.pulse):
                    return _begun(library, device, channels, sound), sound
            except library.PortAudioError as error:
                failed = error
    assert failed is not None
    raise DeviceError(f"{source.name}: {_reason(failed, sample_rate, device.sample_rate)}") from failed


def _begun(library: Any, device: SoundDevice, channels: int, sound: SoundStream) -> Any:
    stream = library.RawInputStream(
        sound.rate, 0, device.index, channels, "float32", _LATENCY,
        callback=sound.heard, finished_callback=sound.end,
    )  # fmt: skip
    try:
        stream.start()
    except library.PortAudioError:
        stream.close(ignore_errors=True)  # else the device is busy when another rate is tried
        raise
    return stream


def _reason(error: Exception, wanted: int, own: int) -> str:
    code = error.args[1] if len(error.args) > 1 else 0
    if code == _UNAVAILABLE:
        return "busy, or gone; close the program that uses it, or plug it in again"
    if code == _REFUSED_RATE:
        return f"refuses {wanted} Hz and its own {own} Hz; use another microphone"
    if code == _REFUSED_CHANNELS:
        return "records neither one channel nor two; use another microphone"
    text = str(error.args[0]).rpartition(": ")[2].lower()
    return f"cannot be opened ({text}); plug it in again, or start the sound server"


def _started() -> Any:
    """PortAudio, with the devices that there are now, unless a stream is open: starting it again would end that."""
    try:
        import sounddevice
    except (OSError, ImportError) as error:
        todo = _MISSING.get(sys.platform, _MISSING["linux"])
        raise DeviceError(f"the microphone needs PortAudio, which is not there; {todo}") from error
    if _open_streams:
        return sounddevice
    with suppress(sounddevice.PortAudioError):  # where it could not be started again the last time
        sounddevice._terminate()
    try:
        sounddevice._initialize()
    except sounddevice.PortAudioError as error:
        raise DeviceError(f"PortAudio cannot be started ({error}); restart the sound server") from error
    return sounddevice


@contextmanager
def _asking_for(pulse: str) -> Iterator[None]:
    """PulseAudio's client library looks into the environment for the source to record from."""
    before = os.environ.get("PULSE_SOURCE")
    if pulse:
        os.environ["PULSE_SOURCE"] = pulse
    try:
        yield
    finally:
        if pulse and before is None:
            del os.environ["PULSE_SOURCE"]
        elif pulse and before is not None:
            os.environ["PULSE_SOURCE"] = before


_quiet = 0
_said_before: int | None = None  # C's stderr


def _quieten(step: int) -> None:
    """While a microphone is open: ALSA and PortAudio print what fails to C's stderr, from threads of their own.

    What is wrong is said by us. Python and fatal errors write to the descriptor and are still heard. Only where the
    stream is a variable: in glibc.
    """
    global _quiet, _said_before
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    with _portaudio:
        _quiet += step
        library = ctypes.CDLL(None)
        stream = ctypes.c_void_p.in_dll(library, "stderr")
        if _quiet == 1 and step > 0:
            _said_before, stream.value = stream.value, _null_stream()
        elif _quiet == 0:
            stream.value, _said_before = _said_before, None


_null: list[int] = []


def _null_stream() -> int:
    """A C stream to nowhere: opened once, never closed, for a thread may be writing to it."""
    if not _null:
        opener = ctypes.CDLL(None).fopen
        opener.restype = ctypes.c_void_p
        _null.append(opener(os.devnull.encode(), b"w"))
    return _null[0]
