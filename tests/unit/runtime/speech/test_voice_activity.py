from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.live.spoken import NEEDS_ESPEAK, has_espeak, say, silence
from vllama.runtime.errors import BackendUnavailableError, FileError
from vllama.runtime.speech.voice_activity import WINDOW, VoiceActivity, find_silero

faster_whisper = pytest.importorskip("faster_whisper", reason="needs the extra `speech`")
_INSTALL = 'install the extra `speech` (`pip install ".[speech]"` in vllama\'s checkout)'
espeak = pytest.mark.skipif(not has_espeak(), reason=NEEDS_ESPEAK)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """A second of silence, a question, another second; whole windows."""
    sound = np.concatenate((silence(1.0), say("What is she cooking?"), silence(1.0)))
    return sound[: len(sound) // WINDOW * WINDOW]


@espeak
def test_probabilities_are_those_of_faster_whisper_whatever_pieces_the_sound_comes_in(speech: np.ndarray) -> None:
    from faster_whisper.vad import get_vad_model

    expected = get_vad_model()(speech.copy())
    activity = VoiceActivity()
    np.testing.assert_allclose(activity.push(speech), expected, atol=1e-5)
    activity.reset()
    cuts = np.cumsum(np.random.default_rng(0).integers(1, 900, len(speech)))
    pieces = [activity.push(piece) for piece in np.split(speech, cuts[cuts < len(speech)])]
    np.testing.assert_allclose(np.concatenate(pieces), expected, atol=1e-5)
    activity.close()


@espeak
def test_speech_is_likely_where_it_is_and_nowhere_else(speech: np.ndarray) -> None:
    probabilities = VoiceActivity().push(speech)
    second = len(silence(1.0)) // WINDOW
    assert probabilities[: second - 1].max() < 0.1
    assert np.median(probabilities[second:-second]) > 0.8, probabilities
    assert probabilities[-second // 3 :].max() < 0.1


def test_silence_tones_and_noise_are_not_speech() -> None:
    time = np.arange(32000, dtype=np.float32) / 16000
    noise = np.random.default_rng(0).standard_normal(32000).astype(np.float32)
    sounds = {"tone": np.sin(2 * np.pi * 440 * time), "high": np.sin(2 * np.pi * 2000 * time), "noise": 0.1 * noise}
    for name, sound in {**sounds, "silence": silence(2.0)}.items():
        assert VoiceActivity().push(sound.astype(np.float32)).max() < 0.4, name


@espeak
def test_nothing_of_before_is_left_after_reset(speech: np.ndarray) -> None:
    activity = VoiceActivity()
    first = activity.push(speech)
    activity.push(speech[:20001])
    activity.reset()
    np.testing.assert_array_equal(activity.push(speech), first)


def test_less_than_a_window_gives_nothing_yet() -> None:
    activity = VoiceActivity()
    assert activity.push(silence(0.02)).shape == (0,)
    assert activity.push(silence(0.02)).shape == (1,)


def test_a_damaged_graph_is_one_line(tmp_path: Path) -> None:
    damaged = tmp_path / "silero.onnx"
    damaged.write_bytes(find_silero().read_bytes()[:5000])
    for path in (damaged, tmp_path / "none.onnx"):
        with pytest.raises(FileError, match=re.escape(f"{path}: not a usable voice detector; {_INSTALL} again")):
            VoiceActivity(path)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(BackendUnavailableError, match=re.escape(f"faster-whisper is not installed; {_INSTALL}")):
        VoiceActivity()


def test_the_graph_is_found_without_loading_whisper_or_torch() -> None:
    code = (
        "import sys; from vllama.runtime.speech.voice_activity import VoiceActivity; VoiceActivity(); "
        "print([name for name in ('faster_whisper', 'ctranslate2', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
