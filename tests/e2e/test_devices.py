"""`vllama devices`: what there is, under the names that --webcam and --mic take."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.pulse import Pulse, missing
from vllama.cli import devices as module
from vllama.runtime import DeviceError
from vllama.runtime.capture.cameras import CameraName
from vllama.runtime.capture.microphones import MicrophoneName

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_a_machine_with_nothing_says_so_in_one_line_each(vllama: Run, tmp_path: Path) -> None:
    if Path("/dev/snd").exists() or list(Path("/sys/class").glob("video4linux/*")):
        pytest.skip("this machine has devices of its own")
    done = vllama("devices", env={"PULSE_SERVER": f"unix:{tmp_path}/none"})
    assert (done.returncode, done.stderr) == (0, "")
    cameras, microphones = done.stdout.splitlines()
    assert cameras.startswith("cameras (--webcam): none: ")
    assert microphones.startswith("microphones (--mic): none: ")


def test_microphones_are_listed_with_the_names_to_use(vllama: Run, tmp_path: Path) -> None:
    if missing():
        pytest.skip(missing())
    with Pulse(tmp_path / "pulse"):
        listed, as_json = vllama("devices"), vllama("devices", "--json")
    assert (listed.returncode, listed.stderr, as_json.stderr) == (0, "", "")
    found = json.loads(as_json.stdout)
    names = {microphone["name"]: microphone for microphone in found["microphones"]}
    assert {"pulse", "default", "mic.monitor", "loopback"} <= set(names)
    assert names["default"]["is_default"]
    assert [name for name, microphone in names.items() if microphone["loopback"]] == ["mic.monitor", "loopback"]
    assert found["no_microphone"] == ""
    assert all(any(name in line for line in listed.stdout.splitlines()) for name in names)


def test_neither_the_runtime_nor_help_loads_opencv_or_portaudio() -> None:
    code = "import sys, vllama.runtime, vllama.cli.app; print({'cv2', 'sounddevice'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_what_cannot_be_listed_does_not_hide_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> list[CameraName]:
        raise DeviceError("OpenCV cannot be loaded (damaged); install opencv-python again")

    monkeypatch.setattr(module, "list_cameras", broken)
    monkeypatch.setattr(module, "list_microphones", lambda: [MicrophoneName(0, "mic", "ALSA, 48000 Hz")])
    module.devices()
    assert capsys.readouterr().out == (
        "cameras (--webcam): none: OpenCV cannot be loaded (damaged); install opencv-python again\n"
        "microphones (--mic):\n   0  mic  ALSA, 48000 Hz\n"
    )
