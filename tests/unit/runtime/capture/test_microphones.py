from __future__ import annotations

import pytest

from vllama.runtime.capture import microphones
from vllama.runtime.capture.microphones import find_sound
from vllama.runtime.capture.sound_source import SoundDevice, SoundSource
from vllama.runtime.errors import DeviceError

FULL = "Microphone (Realtek High Definition Audio)"
CUT = FULL[:31]
OTHER = "Microphone (Realtek USB2.0 Audio)"


def _windows(monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    """As PortAudio lists one microphone on Windows, once for each sound system; the oldest cuts its name."""
    named = [(CUT, "MME"), (FULL, "Windows DirectSound"), (FULL, "Windows WASAPI")]
    named += [(name, "Windows WASAPI") for name in more]
    devices = [SoundDevice(i, name, host, 2, 48000, i == 0) for i, (name, host) in enumerate(named)]
    monkeypatch.setattr(microphones, "list_devices", lambda: devices)


def test_a_name_that_windows_cut_is_not_another_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    _windows(monkeypatch)
    assert find_sound("realtek") == SoundSource(FULL, FULL, "Windows DirectSound")
    assert find_sound(CUT) == SoundSource(CUT, CUT, "MME")
    assert find_sound("0") == SoundSource(CUT, CUT, "MME")


def test_two_microphones_with_a_part_in_common_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    _windows(monkeypatch, OTHER)
    with pytest.raises(DeviceError) as raised:
        find_sound("realtek")
    assert str(raised.value) == f"realtek: fits {FULL} and {OTHER}; use the whole name"
