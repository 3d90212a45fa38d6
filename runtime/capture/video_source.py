"""A camera, stream or file that OpenCV has open, and in words why it has not."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceError
from .reach import check_address, refusal
from .source import EndedError

if TYPE_CHECKING:
    import cv2

_OPEN_SECONDS, _READ_SECONDS = 5.0, 3.0  # a stream that is silent for so long is lost
_ALLOW_SECONDS, _AGAIN_SECONDS = 30.0, 1.0  # in which a person may allow it, and after which it is tried again
_LISTS = (".m3u8", ".mpd")  # come a whole segment at a time
# CAP_ANY would try FFmpeg first, which complains on stderr. Virtual cameras may be known to DirectShow alone.
_CAMERAS = {"linux": ("CAP_V4L2",), "darwin": ("CAP_AVFOUNDATION",), "win32": ("CAP_MSMF", "CAP_DSHOW")}
_FREE_IT = {
    "linux": "close the program that uses it",
    "darwin": "close the program that uses it, or allow this one in System Settings > Privacy & Security > Camera",
    "win32": "close the program that uses it, or allow desktop apps in Settings > Privacy > Camera",
}


@dataclass(frozen=True)
class VideoSource:
    """Where pictures come from. name: what a person calls it. address: a path, a URL, or a camera's index."""

    name: str
    kind: Literal["device", "stream", "file"]
    address: str | int


class Film:
    """An open source. paced: its pictures come as fast as they are asked for, and `position` says when each is due."""

    def __init__(self, source: VideoSource, capture: cv2.VideoCapture) -> None:
        import cv2

        self._source, self._capture, self._error = source, capture, cv2.error
        self._at, self._grabbed = cv2.CAP_PROP_POS_MSEC, 0
        self.position = 0.0  # seconds from the start to the picture that was grabbed; by the rate where no times are
        self._length = capture.get(cv2.CAP_PROP_FRAME_COUNT)  # of what is live 0, or far below
        listed = source.kind == "stream" and urlsplit(str(source.address)).path.endswith(_LISTS)
        self.paced = source.kind == "file" or listed or (source.kind == "stream" and self._length > 0)
        self.rate = capture.get(cv2.CAP_PROP_FPS) or 25.0  # pictures per second, as far as it says

    def grab(self) -> None:
        """Wait for the next picture.

        Raises:
            DeviceError: it is lost. EndedError: there is no further one.
        """
        begun = time.monotonic()
        try:
            grabbed = self._capture.grab()
        except self._error as error:
            raise self._loss(time.monotonic() - begun) from error
        if not grabbed:
            raise self._loss(time.monotonic() - begun)
        self._grabbed += 1
        at = self._capture.get(self._at) / 1000.0
        self.position = at if self._grabbed == 1 or at > self.position else self.position + 1.0 / self.rate

    def picture(self) -> NDArray[np.uint8] | None:
        """The picture that was grabbed: uint8 (height, width, 3), BGR; None: it is damaged."""
        try:
            there, pixels = self._capture.retrieve()
        except self._error:
            return None
        if not there or pixels is None or pixels.ndim != 3 or pixels.dtype != np.uint8:
            return None
        return pixels.view(np.uint8)

    def seek(self, seconds: float) -> None:
        """Go on from there."""
        self._capture.set(self._at, seconds * 1000.0)

    def _loss(self, waited: float) -> DeviceError:
        source = self._source
        if source.kind == "file" or (self.paced and self._grabbed >= self._length - 1 > 0):
            return EndedError(f"{source.name}: ended")
        if source.kind == "stream" and waited > 0.8 * _READ_SECONDS:
            return DeviceError(f"{source.name}: no picture for {_READ_SECONDS:.0f} s; see whether the camera hangs")
        if source.kind == "stream":
            return DeviceError(f"{source.name}: the connection ended; see whether the camera is on")
        if isinstance(source.address, str) and not os.path.exists(source.address):
            return DeviceError(f"{source.name}: unplugged; plug it in again")
        return DeviceError(f"{source.name}: sends no picture; plug it in again, or {_free_it()}")


def await_permission(source: VideoSource, note: Callable[[str], None]) -> None:
    """On macOS, return when a camera can be opened, or it was waited for in vain; to be called from the main thread.

    The first opening fails there whatever the answer, for the system only asks a person then, and OpenCV can wait for
    the answer on the main thread only.

    Raises:
        DeviceError: OpenCV cannot be loaded.
    """
    if sys.platform != "darwin" or not isinstance(source.address, int):
        return
    until, said = time.monotonic() + _ALLOW_SECONDS, False
    while not opens(source) and time.monotonic() < until:
        if not said:
            note(f"{source.name}: cannot be opened yet; where macOS asks whether this program may use it, allow it")
        said = True
        time.sleep(_AGAIN_SECONDS)


@contextmanager
def open_video(source: VideoSource, wanted: Callable[[], bool]) -> Iterator[Film]:
    """An open source; it is closed on leaving.

    wanted: asked while a network is waited for; False gives up.

    Raises:
        DeviceError: it cannot be opened.
    """
    if source.kind == "stream":
        check_address(source.name, str(source.address), _READ_SECONDS, wanted)
    elif source.kind == "device" and isinstance(source.address, str):
        _check_node(source.name, source.address)
    capture = _opened(source)
    try:
        if not capture.isOpened():
            raise DeviceError(f"{source.name}: {_unopened(source)}")
        yield Film(source, capture)
    finally:
        capture.release()


def opens(source: VideoSource) -> bool:
    """Whether a camera can be opened; it is closed again.

    Raises:
        DeviceError: OpenCV cannot be loaded.
    """
    capture = _opened(source)
    try:
        return capture.isOpened()
    finally:
        capture.release()


def _opened(source: VideoSource) -> cv2.VideoCapture:
    _prepare()
    try:
        import cv2
    except ImportError as error:
        raise DeviceError(f"OpenCV cannot be loaded ({error}); install opencv-python again") from error
    if source.kind == "device":
        return _camera(source.address)
    options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(1000 * _OPEN_SECONDS)]
    options += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(1000 * _READ_SECONDS)]
    if source.kind == "stream":
        options += [cv2.CAP_PROP_N_THREADS, 1]  # each further one would hold a picture back
    return cv2.VideoCapture(str(source.address), cv2.CAP_FFMPEG, options)


def _camera(address: str | int) -> cv2.VideoCapture:
    import cv2

    capture = cv2.VideoCapture()
    for name in _CAMERAS.get(sys.platform, ("CAP_ANY",)):
        backend = getattr(cv2, name)
        # OpenCV's declarations know one or the other
        opened = capture.open(address, backend) if isinstance(address, int) else capture.open(str(address), backend)
        if opened:
            break
    return capture


def _prepare() -> None:
    """Before OpenCV is loaded: its log and FFmpeg's go to stderr, and what is wrong is said by us.

    On Windows a camera takes up to 20 s to open where its pictures may be converted by the GPU.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(int(_READ_SECONDS)))


def _check_node(name: str, path: str) -> None:
    """What is wrong with a /dev/videoN, as far as it can be seen without OpenCV."""
    try:
        os.close(os.open(path, os.O_RDWR | getattr(os, "O_NONBLOCK", 0)))  # Windows does not know the latter
    except FileNotFoundError as error:
        raise DeviceError(f"{name}: there is no {path}; `vllama devices` lists the cameras") from error
    except PermissionError as error:
        raise DeviceError(
            f"{name}: no permission to open {path}; run `sudo usermod -aG video $USER` and log in again"
        ) from error
    except OSError as error:
        raise DeviceError(f"{name}: {path}: {error.strerror}; plug it in again, or {_free_it()}") from error


def _unopened(source: VideoSource) -> str:
    if source.kind == "stream":
        return refusal(str(source.address), _OPEN_SECONDS)
    if source.kind == "file":
        return "holds no picture that OpenCV can decode; convert it to MP4"
    return f"cannot be opened; plug it in again, or {_free_it()}"


def _free_it() -> str:
    return _FREE_IT.get(sys.platform, _FREE_IT["linux"])
