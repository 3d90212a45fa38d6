from __future__ import annotations

import errno
import socket
import sys
import threading
import time

import pytest

from vllama.runtime.capture.reach import check_address, refusal, without_password
from vllama.runtime.errors import DeviceError


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://host/a", "rtsp://host/a"),
        ("rtsp://me:secret@host:554/a?b=c", "rtsp://host:554/a?b=c"),
        ("http://me:se@cret@host/a", "http://host/a"),
        ("plain", "plain"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_something_that_listens_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address("camera", f"rtsp://127.0.0.1:{server.getsockname()[1]}/a", 5.0, lambda: True)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9/a", "camera: connection refused; see whether the camera is on and the address is right"),
        ("http://127.0.0.1:99999/a", "camera: port out of range 0-65535; correct the address"),
        ("http:///a", "camera: names no host; correct the address"),
        ("rtsp://[fe80::1/x", "camera: invalid ipv6 url; correct the address"),
        ("tcp://127.0.0.1/a", "camera: names no port; correct the address"),
        ("http://no.such.invalid/a", "camera: no machine is called no.such.invalid; check the address and the network"),
    ],
)
def test_what_is_wrong_with_an_address_is_one_line(url: str, said: str) -> None:
    with pytest.raises(DeviceError) as raised:
        check_address("camera", url, 5.0, lambda: True)
    assert str(raised.value) == said


def test_windows_has_words_of_its_own_for_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "errorTab", {errno.ECONNREFUSED: "Refused there."}, raising=False)
    with pytest.raises(DeviceError, match=r"^camera: refused there; see whether"):
        check_address("camera", "http://127.0.0.1:9/a", 5.0, lambda: True)


def full() -> tuple[socket.socket, list[socket.socket]]:
    """A server that takes no further connection, and what fills it."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    lines = []
    for _ in range(4):
        lines.append(socket.socket())
        lines[-1].setblocking(False)
        lines[-1].connect_ex(server.getsockname())
    return server, lines


def test_nothing_that_answers_is_waited_for_in_vain_or_until_it_is_no_longer_wanted() -> None:
    server, lines = full()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/a"
    with pytest.raises(DeviceError, match=r"^camera: no answer for 1 s;"):
        check_address("camera", url, 1.0, lambda: True)
    begun = time.monotonic()
    with pytest.raises(DeviceError):
        check_address("camera", url, 60.0, lambda: time.monotonic() < begun + 0.3)
    assert time.monotonic() - begun < 10.0
    for line in (server, *lines):
        line.close()


def test_a_system_without_ipv6_takes_the_other_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        both = [
            (99, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (2, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: both)  # 99: no family of this system
        check_address("camera", f"rtsp://somewhere:{port}/a", 5.0, lambda: True)
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: both[:1])
        family = "" if sys.platform == "linux" else " family"
        with pytest.raises(
            DeviceError, match=rf"^camera: address family not supported by protocol{family}; see whether"
        ):
            check_address("camera", f"rtsp://somewhere:{port}/a", 5.0, lambda: True)


def test_an_address_with_letters_beyond_ascii_is_asked_as_the_web_writes_it() -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            line, _ = server.accept()
            with line:
                asked.append(line.recv(4096).split(b"\r\n")[0])
                line.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        said = refusal(f"http://127.0.0.1:{server.getsockname()[1]}/höhe%20a?q=ü&r=1", 5.0)
        thread.join()
    assert asked == [b"GET /h%C3%B6he%20a?q=%C3%BC&r=1 HTTP/1.1"]
    assert said == "the camera answers 404 Not Found; check the address"


def test_a_stream_that_is_none_is_refused_with_what_to_do() -> None:
    assert refusal("rtsp://127.0.0.1:9/a", 5.0) == (
        "sends no video within 5 s that can be read; check the address, user and password"
    )
