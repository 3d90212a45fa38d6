"""Which cameras there are, and what `--webcam SOURCE` means."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import DeviceError, MediaError
from ..media import probe
from .reach import SCHEMES, without_password
from .video_source import VideoSource, opens

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

    Raises:
        DeviceError: OpenCV, where it is needed, cannot be loaded.
    """
    if sys.platform != "linux":
        # macOS numbers them without a gap, and OpenCV prints a line for each number beyond.
        tried = takewhile if sys.platform == "darwin" else filter
        return [CameraName(index, f"camera {index}", "") for index in tried(_opens, range(_MOST_TRIED))]
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
    if os.path.isfile(text):
        return _file(text)
    if sys.platform != "linux":  # the names are numbers there, and to list them is to open them
        number = re.fullmatch(r"camera (\d+)", text.casefold())
        return VideoSource(text.casefold(), "device", int(number[1])) if number else _file(text)
    named = [camera for camera in list_cameras(folder) if camera.name.casefold() == text.casefold()]
    if len(named) > 1:
        raise DeviceError(f"{text}: {len(named)} cameras are called so; use {' or '.join(c.path for c in named)}")
    if named:
        return VideoSource(named[0].name, "device", named[0].path)
    return _file(text)


def _stream(url: str) -> VideoSource:
    name = without_password(url)
    try:
        scheme = urlsplit(url).scheme.lower()
    except ValueError as error:
        raise DeviceError(f"{name}: {str(error).lower()}; correct the address") from error
    if scheme not in SCHEMES:
        raise DeviceError(f"{name}: {scheme}:// is not a known kind of stream; use rtsp:// or http://")
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
    return opens(VideoSource(f"camera {index}", "device", index))


def _line(path: Path) -> str:
    try:
        return " ".join(path.read_text("utf-8", "replace").split())
    except OSError:
        return ""
