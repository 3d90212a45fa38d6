"""Which cameras there are, and what `--webcam SOURCE` means."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .errors import DeviceError, MediaError
from .media import probe
from .reach import SCHEMES, without_password
from .video_source import VideoSource, open_video

_LINUX_LIST = Path("/sys/class/video4linux")
_MOST_TRIED = 5  # cameras, where the system does not list them


@dataclass(frozen=True)
class CameraName:
    """A camera as `vllama devices` lists it. path: "" where the system has none."""

    index: int
    name: str
    path: str


def list_cameras(folder: Path = _LINUX_LIST) -> list[CameraName]:
    """The cameras of this machine. Elsewhere than on Linux OpenCV knows no names: the numbers that can be opened.

    folder: where Linux lists them.
    """
    if sys.platform != "linux":
        return [CameraName(index, f"camera {index}", "") for index in range(_MOST_TRIED) if _opens(index)]
    nodes = {int(node.name[5:]): node for node in folder.glob("video*") if node.name[5:].isdecimal()}
    # Further nodes of the same camera carry its metadata.
    numbers = sorted(number for number, node in nodes.items() if _line(node / "index") in ("0", ""))
    return [CameraName(number, _line(nodes[number] / "name"), f"/dev/video{number}") for number in numbers]


def why_no_camera() -> str:
    """One line for where `list_cameras` finds none."""
    if sys.platform == "linux":
        return "the system has no /dev/video*; plug a camera in, or use a stream or a file"
    return "OpenCV can open none; plug one in, or allow this program to use it in the system's privacy settings"


def find_video(text: str, folder: Path = _LINUX_LIST) -> VideoSource:
    """What SOURCE means: an index, a name that `vllama devices` lists, /dev/videoN, a URL or a file.

    Raises:
        DeviceError: it means nothing, or a file without pictures.
    """
    if text.isdecimal():
        return VideoSource(f"camera {text}", "device", f"/dev/video{text}" if sys.platform == "linux" else int(text))
    if "://" in text:
        return _stream(text)
    if text.startswith("/dev/"):
        return VideoSource(text, "device", os.path.realpath(text))  # /dev/v4l/by-id/... are links
    named = [camera for camera in list_cameras(folder) if camera.name.casefold() == text.casefold()]
    if len(named) > 1:
        raise DeviceError(f"{text}: {len(named)} cameras are called so; use {' or '.join(c.path for c in named)}")
    if named:
        return VideoSource(named[0].name, "device", named[0].path or named[0].index)
    return _file(text)


def _stream(url: str) -> VideoSource:
    name, scheme = without_password(url), urlsplit(url).scheme.lower()
    if scheme not in SCHEMES:
        raise DeviceError(f"{name}: {scheme}:// is no kind of stream that is known; use rtsp:// or http://")
    return VideoSource(name, "stream", url)


def _file(text: str) -> VideoSource:
    if not os.path.exists(text):
        raise DeviceError(f"{text}: no such camera or file; `vllama devices` lists the cameras")
    try:
        kind = probe(Path(text)).kind
    except MediaError as error:
        raise DeviceError(str(error)) from error
    if kind == "audio":
        raise DeviceError(f"{text}: holds sound but no picture; give a video")
    return VideoSource(text, "file", os.path.abspath(text))  # FFmpeg takes the start of "12:30.mp4" for a protocol


def _opens(index: int) -> bool:
    try:
        with open_video(VideoSource(f"camera {index}", "device", index), lambda: True):
            return True
    except DeviceError:
        return False


def _line(path: Path) -> str:
    try:
        return " ".join(path.read_text("utf-8", "replace").split())
    except OSError:
        return ""
