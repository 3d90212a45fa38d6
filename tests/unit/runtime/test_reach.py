from __future__ import annotations

import socket
import time

import pytest

from vllama.runtime.errors import DeviceError
from vllama.runtime.reach import check_address, refusal, without_password


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
        ("tcp://127.0.0.1/a", "camera: names no port; correct the address"),
        ("http://no.such.invalid/a", "camera: no machine is called no.such.invalid; check the address and the network"),
    ],
)
def test_what_is_wrong_with_an_address_is_one_line(url: str, said: str) -> None:
    with pytest.raises(DeviceError) as raised:
        check_address("camera", url, 5.0, lambda: True)
    assert str(raised.value) == said


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


def test_a_stream_that_is_none_is_refused_with_what_to_do() -> None:
    assert refusal("rtsp://127.0.0.1:9/a", 5.0) == (
        "sends no video within 5 s that can be read; check the address, user and password"
    )
