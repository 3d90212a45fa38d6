"""How likely it is that somebody speaks: Silero's network, window by window, as the sound comes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..backend import Backend, open_backend
from ..errors import BackendUnavailableError, FileError, extra
from ..types import Float32

SAMPLE_RATE = 16000  # Hz, the only one that these weights are for
WINDOW = 512  # samples
_CONTEXT = 64  # samples of the window before that stand in front of each
_STATE = (1, 1, 128)  # of the LSTM
INSTALL = f"install {extra('speech')}"


class VoiceActivity:
    """Silero VAD 6 on ONNX Runtime: one probability for each 32 ms of a stream, whatever pieces it comes in.

    What is kept between two pieces is the rest of a window, the last 64 samples and the state of the LSTM.

    Args:
        path: the graph; None: the one that faster-whisper carries.

    Raises:
        BackendUnavailableError: it is not installed.
        FileError: it cannot be read.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or find_silero()
        try:
            self._graph: Backend = open_backend(path, threads=1)
        except FileError as error:
            raise FileError(f"{path}: not a usable voice detector; {INSTALL} again") from error
        self.reset()

    def reset(self) -> None:
        """What comes next does not follow on what came."""
        self._h = np.zeros(_STATE, np.float32)
        self._c = np.zeros(_STATE, np.float32)
        self._rest = np.zeros(_CONTEXT, np.float32)  # of the stream, in front of what comes next

    def push(self, sound: Float32) -> Float32:
        """float32 (n,), [-1, 1], at 16 kHz, right after what came before -> (windows,), each in [0, 1].

        Raises:
            BackendError: the graph cannot be run.
        """
        stream = np.concatenate((self._rest, sound))
        count = (len(stream) - _CONTEXT) // WINDOW
        self._rest = stream[count * WINDOW :]
        if not count:
            return np.zeros(0, np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(stream, _CONTEXT + WINDOW)[::WINDOW][:count]
        outputs = self._graph.run({"input": np.ascontiguousarray(windows), "h": self._h, "c": self._c})
        self._h, self._c = outputs["hn"], outputs["cn"]
        return outputs["speech_probs"]

    def close(self) -> None:
        """Give the graph's memory back."""
        self._graph.close()


def find_silero() -> Path:
    """The graph among the files of faster-whisper, which is not imported for that.

    Raises:
        BackendUnavailableError: it is not installed.
    """
    package = find_spec("faster_whisper")
    folders = package.submodule_search_locations if package is not None else None
    found = [path for folder in folders or () for path in sorted(Path(folder).glob("assets/silero_vad_v6*.onnx"))]
    if not found:
        what = "carries no voice detector of a kind that is known" if folders else "is not installed"
        raise BackendUnavailableError(f"faster-whisper {what}; {INSTALL}")
    return found[-1]
