from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import cv2
import pytest

from vllama.runtime.capture import video_source
from vllama.runtime.capture.video_source import VideoSource, await_permission, open_video, opens
from vllama.runtime.errors import DeviceError

CAMERA = VideoSource("camera 0", "device", 0)


class Asked:
    """OpenCV on a system that opens the camera only at the so-manieth time."""

    def __init__(self, refusals: int) -> None:
        self.left, self.open = refusals, 0

    def __call__(self, source: VideoSource) -> SimpleNamespace:
        self.left -= 1
        self.open += 1
        return SimpleNamespace(isOpened=lambda: self.left < 0, release=self._release)

    def _release(self) -> None:
        self.open -= 1


@pytest.mark.parametrize(("refusals", "seconds", "notes"), [(0, 30.0, 0), (3, 30.0, 1), (1 << 30, 0.02, 1)])
def test_on_macos_a_person_is_waited_for_with_one_note(
    refusals: int, seconds: float, notes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, said = Asked(refusals), list[str]()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(video_source, "_opened", asked)
    monkeypatch.setattr(video_source, "_ALLOW_SECONDS", seconds)
    monkeypatch.setattr(video_source, "_AGAIN_SECONDS", 0.001)
    await_permission(CAMERA, said.append)
    line = "camera 0: cannot be opened yet; where macOS asks whether this program may use it, allow it"
    assert said == [line] * notes
    assert asked.open == 0
    assert (asked.left < 0) == (refusals < 9)
    assert "Privacy & Security > Camera" in video_source._unopened(CAMERA)


@pytest.mark.parametrize(
    ("system", "source"),
    [
        ("linux", VideoSource("camera 0", "device", "/dev/video0")),
        ("win32", CAMERA),
        ("darwin", VideoSource("clip.mp4", "file", "/clip.mp4")),
    ],
)
def test_nobody_is_asked_elsewhere_nor_for_a_file(
    system: str, source: VideoSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(video_source, "_opened", lambda source: pytest.fail(f"{source} was opened"))
    await_permission(source, pytest.fail)


@pytest.mark.parametrize(
    ("system", "opens_one", "backends"),
    [
        ("linux", False, ["CAP_V4L2"]),
        ("darwin", False, ["CAP_AVFOUNDATION"]),
        ("win32", False, ["CAP_MSMF", "CAP_DSHOW"]),
        ("win32", True, ["CAP_MSMF"]),
    ],
)
def test_a_camera_is_opened_by_what_opens_cameras(
    system: str, opens_one: bool, backends: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    capture = cv2.VideoCapture()

    def recorded(address: int, backend: int) -> bool:
        asked.append(backend)
        return opens_one or capture.open(address, backend)

    opened = SimpleNamespace(open=recorded, isOpened=capture.isOpened, release=capture.release)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(cv2, "VideoCapture", lambda: opened)
    assert not opens(VideoSource("camera 99", "device", 99))
    assert asked == [getattr(cv2, name) for name in backends]


def test_a_device_that_is_not_there_is_one_line_where_the_system_has_no_such_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "O_NONBLOCK", raising=False)
    source = VideoSource("camera 0", "device", "/dev/video98")
    with pytest.raises(DeviceError, match=r"^camera 0: there is no /dev/video98; `vllama devices` lists the cameras$"):
        open_video(source, lambda: True).__enter__()


def test_opencv_is_told_to_be_silent_and_quick_unless_a_person_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_LOG_LEVEL", "INFO")
    monkeypatch.delenv("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", raising=False)
    video_source._prepare()
    assert os.environ["OPENCV_LOG_LEVEL"] == "INFO"
    assert os.environ["OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS"] == "0"
