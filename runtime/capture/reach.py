"""What a network camera's address leads to, in words: OpenCV only says that it could not be opened."""

from __future__ import annotations

import errno
import http.client
import os
import select
import socket
import string
import time
from collections.abc import Callable
from urllib.parse import SplitResult, quote, urlsplit
from urllib.request import getproxies

from ..errors import DeviceError

# The schemes that FFmpeg plays live, and their ports; 0: none of its own, or no connection is made.
SCHEMES = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "tcp": 0, "udp": 0, "rtp": 0, "srt": 0}
_UNCONNECTED = ("udp", "rtp", "srt")
_UNDERWAY = (errno.EINPROGRESS, errno.EWOULDBLOCK, 10035)  # the last is Windows' own
_LOOK_SECONDS = 0.1  # how often it is asked whether the wait is still wanted
_HTTP_SECONDS = 2.0


def without_password(url: str) -> str:
    """The address as it may be shown."""
    user, at, rest = url.rpartition("@")
    return f"{user.partition('://')[0]}://{rest}" if at and "://" in user else url


def check_address(name: str, url: str, seconds: float, wanted: Callable[[], bool]) -> None:
    """Make sure that something takes a connection there.

    Raises:
        DeviceError: it is no address, nothing answers within so many seconds, or it is no longer wanted.
    """
    try:
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
        host, port = parts.hostname, parts.port or SCHEMES[scheme]
    except ValueError as error:
        raise DeviceError(f"{name}: {str(error).lower()}; correct the address") from error
    if scheme in _UNCONNECTED or scheme in getproxies():
        return
    if not host or not port:
        raise DeviceError(f"{name}: names no {'port' if host else 'host'}; correct the address")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DeviceError(f"{name}: no machine is called {host}; check the address and the network") from error
    reasons: list[str] = []
    for family, _, _, _, address in found[:2]:
        try:
            reasons.append(_connect(family, address, seconds, wanted))
        except OSError as error:  # a system without IPv6 still knows such addresses
            reasons.append(_words(error.errno) if error.errno else str(error).lower())
        if not reasons[-1]:
            return
    raise DeviceError(f"{name}: {reasons[0]}; see whether the camera is on and the address is right")


def refusal(url: str, seconds: float) -> str:
    """Why a stream that answers could not be opened, and what to do."""
    parts = urlsplit(url)
    if parts.scheme.lower() in ("http", "https") and "@" not in parts.netloc:
        status = _http_status(parts)
        if status:
            return f"the camera answers {status}; check the address"
    return f"sends no video within {seconds:.0f} s that can be read; check the address, user and password"


def _connect(family: int, address: object, seconds: float, wanted: Callable[[], bool]) -> str:
    """Why no connection can be made; "" where it can."""
    until = time.monotonic() + seconds
    with socket.socket(family, socket.SOCK_STREAM) as line:
        line.setblocking(False)
        code = line.connect_ex(address)  # type: ignore[arg-type]  # of getaddrinfo: any family's
        while code in _UNDERWAY:
            if not wanted():
                return "given up"
            if time.monotonic() > until:
                return f"no answer for {seconds:.0f} s"
            _, ready, failed = select.select([], [line], [line], _LOOK_SECONDS)
            if ready or failed:
                code = line.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return _words(code) if code else ""


def _words(code: int) -> str:
    """What an error of a connection means; `os.strerror` knows none of Windows' own numbers for them."""
    windows: dict[int, str] = getattr(socket, "errorTab", {})
    return (windows.get(code) or os.strerror(code)).rstrip(".").lower()


def _http_status(parts: SplitResult) -> str:
    """What is wrong, in HTTP's words; "" if nothing is."""
    kind = http.client.HTTPSConnection if parts.scheme.lower() == "https" else http.client.HTTPConnection
    line = kind(parts.hostname or "", parts.port, timeout=_HTTP_SECONDS)
    try:
        asked = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        line.request("GET", quote(asked, safe=string.punctuation))
        answer = line.getresponse()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        line.close()
    kind_of = answer.headers.get_content_type()
    if answer.status >= 400:
        return f"{answer.status} {answer.reason}"
    return f"with {kind_of}, which is not video" if kind_of.startswith("text/") else ""
