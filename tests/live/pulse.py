"""A sound server of the tests' own: PulseAudio with a null sink whose monitor is the microphone.

What is played into the sink is what the microphone hears. It has its own folder, socket and configuration and touches
nothing of the user's; the environment of this process points to it between `start` and `stop`, so PortAudio's ALSA
devices `pulse` and `default` are this microphone. Times are those of time.monotonic.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
import signal
import statistics
import subprocess
import threading
import time
import wave
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

RATE = 16000
_TOOLS = ("pulseaudio", "pactl", "espeak-ng")
_ALSA = "pcm.pulse {type pulse}\nctl.pulse {type pulse}\npcm.!default {type pulse}\nctl.!default {type pulse}\n"
_PATIENCE = 15.0  # seconds for what takes a moment


def missing() -> str:
    """Why a test that needs this cannot run here, in one line; "" if it can, and on CI, where it must."""
    tools = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if ctypes.util.find_library("portaudio") is None:
        tools.append("libportaudio2")
    if not _alsa_plugin():
        tools.append("libasound2-plugins")
    return f"needs {', '.join(tools)}; install them with apt-get" if tools and not os.environ.get("CI") else ""


def _alsa_plugin() -> bool:
    return any(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so"))


class Pulse:
    """The daemon and its null sink `mic`."""

    def __init__(self, folder: Path, rate: int = RATE) -> None:
        self.rate = rate
        self.speech = folder / "speech.wav"  # what `say` said last
        self._folder = folder
        self._daemon: subprocess.Popen[bytes] | None = None
        self._speaker: Speaker | None = None
        self._module = ""
        self._before: dict[str, str | None] = {}

    def start(self) -> None:
        """Start the daemon, also after `kill`, and load the sink."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "asound.conf").write_text(_ALSA, "utf-8")
        for name, value in self._environment().items():
            self._before.setdefault(name, os.environ.get(name))
            os.environ[name] = value
        self._socket.unlink(missing_ok=True)
        # Without shared memory: with it, about one of thirty sudden ends of the daemon locks its clients' library up.
        options = ("--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--disable-shm=yes")
        command = ["pulseaudio", "-n", *options]
        load = f"module-native-protocol-unix auth-anonymous=1 socket={self._socket}"
        with (self._folder / "log").open("ab") as log:
            self._daemon = subprocess.Popen([*command, "-L", load], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        until = time.monotonic() + _PATIENCE
        while subprocess.run(["pactl", "info"], capture_output=True).returncode:
            assert time.monotonic() < until, (self._folder / "log").read_text()
            time.sleep(0.02)
        self.load()

    def stop(self) -> None:
        """End the daemon and give the environment back."""
        self.kill()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before.clear()

    def kill(self) -> None:
        """End the daemon without a word: what a crash of the sound server is to its clients."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None
        self.hush()

    def freeze(self, on: bool) -> None:
        """Let the daemon hang, and go on."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP if on else signal.SIGCONT)

    def load(self) -> None:
        """Plug the sink, and so the microphone, in."""
        sink = ("sink_name=mic", f"rate={self.rate}", "channels=1", "sink_properties=device.description=mic")
        self._module = self._pactl("load-module", "module-null-sink", *sink).strip()
        self._pactl("set-default-sink", "mic")
        self._pactl("set-default-source", "mic.monitor")
        self._speaker = Speaker(self.rate)  # a sink that nobody plays to wakes up every two seconds
        self.suspend(True)
        self.suspend(False)
        self._speaker.wait()

    def unload(self) -> None:
        """Unplug it."""
        self.hush()
        self._pactl("unload-module", self._module)

    @contextmanager
    def other_source(self) -> Iterator[None]:
        """Another microphone, a silent one, is the default."""
        module = self._pactl("load-module", "module-null-source", "source_name=other", f"rate={self.rate}").strip()
        self._pactl("set-default-source", "other")
        try:
            yield
        finally:
            self._pactl("unload-module", module)
            self._pactl("set-default-source", "mic.monitor")

    def suspend(self, on: bool) -> None:
        """Let the microphone sleep, or wake it."""
        self._pactl("suspend-sink", "mic", str(int(on)))

    def speaker(self) -> Speaker:
        """What plays into the sink."""
        assert self._speaker is not None, "there is no sink"
        return self._speaker

    def play(self, wav: Path, *, wait: bool = True) -> float:
        """Play a WAV file into the microphone; the time of its first sample."""
        sound = read_wav(wav, self.rate)
        begin = self.speaker().play(sound)
        if wait:
            time.sleep(max(0.0, begin + len(sound) / self.rate - time.monotonic()))
        return begin

    def say(self, words: str) -> float:
        """Speak into the microphone; the time of the first sample."""
        subprocess.run(["espeak-ng", "-w", self.speech, words], check=True, capture_output=True)
        return self.play(self.speech)

    def listeners(self) -> int:
        """How many record from a source."""
        return len(self._pactl("list", "short", "source-outputs").splitlines())

    def hush(self) -> None:
        """Let the speaker go."""
        speaker, self._speaker = self._speaker, None
        if speaker is not None:
            speaker.close()

    def __enter__(self) -> Pulse:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _socket(self) -> Path:
        return self._folder / "native"

    def _environment(self) -> dict[str, str]:
        folder = str(self._folder)
        return {
            "XDG_RUNTIME_DIR": folder,
            "XDG_CONFIG_HOME": folder,
            "PULSE_RUNTIME_PATH": folder,
            "PULSE_STATE_PATH": folder,
            "PULSE_SERVER": f"unix:{self._socket}",
            "ALSA_CONFIG_PATH": f"{folder}/asound.conf",
        }

    def _pactl(self, *arguments: str) -> str:
        done = subprocess.run(["pactl", *arguments], capture_output=True, text=True, timeout=_PATIENCE)
        assert not done.returncode, done.stderr
        return done.stdout


class Speaker:
    """Plays silence without end, and sounds at the moment they are due.

    PulseAudio says how long the next sample will take until it sounds; the median of what it said lately places every
    sample on the clock to about a millisecond.
    """

    _BLOCK = 160

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._pulse = ctypes.CDLL("libpulse-simple.so.0")
        self._pulse.pa_simple_new.restype = ctypes.c_void_p
        self._pulse.pa_simple_get_latency.restype = ctypes.c_uint64
        form, error = _Form(5, rate, 1), ctypes.c_int()  # 5: float32
        attributes = _Buffer(0xFFFFFFFF, rate, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)  # a quarter of a second of bytes
        self._stream = ctypes.c_void_p(
            self._pulse.pa_simple_new(
                None, b"tests", 1, None, b"speaker", ctypes.byref(form), None, ctypes.byref(attributes),
                ctypes.byref(error),
            )
        )  # fmt: skip
        assert self._stream, f"PulseAudio error {error.value}"
        self._lock = threading.Lock()
        self._due: dict[int, NDArray[np.float32]] = {}  # first sample -> sound
        self._written = 0
        self._promised = 0.0  # the time of sample 0, as it was when a sound was last planned
        self._zeros: deque[tuple[int, float]] = deque(maxlen=1000)  # (sample, time of sample 0) by each block
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="speaker")
        self._thread.start()

    def wait(self) -> None:
        """Until it plays, and knows when: what it was told before it played is forgotten."""
        time.sleep(0.2)
        with self._lock:
            self._zeros.clear()
        while len(self._zeros) < 20 and self._thread.is_alive():
            time.sleep(0.02)

    def play(self, sound: NDArray[np.float32], at: float | None = None) -> float:
        """Play float32 (n,) at a time, at least 0.4 s ahead; default: as soon as possible. The time of its start."""
        with self._lock:
            zero = statistics.median(zero for _, zero in list(self._zeros)[-100:])
            first = self._written + self._rate // 10 if at is None else round((at - zero) * self._rate)
            assert first >= self._written, "too late to play that"
            self._due[first], self._promised = sound, zero
            return zero + first / self._rate

    def sounded(self, begin: float) -> float:
        """When the last sound really began, which `play` said would begin then; up to 10 s ago.

        That is later where the machine was so busy that the sink ran empty.
        """
        with self._lock:
            first = round((begin - self._promised) * self._rate)
            after = [zero for sample, zero in self._zeros if 0 <= sample - first < self._rate // 4]
            return statistics.median(after) + first / self._rate

    def close(self) -> None:
        """Stop; no thread is left."""
        self._closed = True
        self._thread.join()

    def _run(self) -> None:
        error = ctypes.c_int()
        while not self._closed:
            latency = self._pulse.pa_simple_get_latency(self._stream, ctypes.byref(error))
            with self._lock:
                zero = time.monotonic() + latency / 1e6 - self._written / self._rate
                self._zeros.append((self._written, zero))
                block = self._block()
            if self._pulse.pa_simple_write(self._stream, block.tobytes(), 4 * len(block), ctypes.byref(error)) < 0:
                break  # the daemon went
        self._pulse.pa_simple_free(self._stream)

    def _block(self) -> NDArray[np.float32]:
        block, begin = np.zeros(self._BLOCK, np.float32), self._written
        self._written += self._BLOCK
        for first, sound in list(self._due.items()):
            low, high = max(first, begin), min(first + len(sound), self._written)
            if low < high:
                block[low - begin : high - begin] += sound[low - first : high - first]
            if first + len(sound) <= self._written:
                del self._due[first]
        return block


class _Form(ctypes.Structure):
    _fields_ = (("format", ctypes.c_int), ("rate", ctypes.c_uint32), ("channels", ctypes.c_uint8))


class _Buffer(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("maxlength", "tlength", "prebuf", "minreq", "fragsize"))


def read_wav(path: Path, rate: int) -> NDArray[np.float32]:
    """A 16-bit WAV file as float32 (n,), mono, at rate Hz (linear interpolation: it is a loudspeaker)."""
    with wave.open(str(path)) as file:
        data = np.frombuffer(file.readframes(file.getnframes()), np.int16).reshape(-1, file.getnchannels())
        own = file.getframerate()
    sound = data.mean(1) / 32768.0
    places = np.arange(int(len(sound) * rate / own)) * own / rate
    played: NDArray[np.float64] = np.interp(places, np.arange(len(sound)), sound)
    return played.astype(np.float32)


def click(rate: int = RATE) -> NDArray[np.float32]:
    """20 ms of noise at full loudness that begin at once."""
    return np.random.default_rng(1).uniform(-0.9, 0.9, rate // 50).astype(np.float32)
