"""An RTSP camera on this machine: a video file, in real time, as H.264 in MPEG-TS over RTP in the RTSP connection.

It plays the clip from its start for every client, one after the other, and then hangs up.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from io import RawIOBase
from pathlib import Path
from types import TracebackType

import av

_CHUNK = 7 * 188  # packets of MPEG-TS in one of RTP
_TYPE = 33  # MPEG-TS in RTP's list
_SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=film\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"
_ANSWERS = {
    "OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n",
    "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(_SDP)}\r\n\r\n{_SDP}",
    "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n",
    "PLAY": "Session: 1\r\n\r\n",
    "TEARDOWN": "Session: 1\r\n\r\n",
}


class RtspServer:
    """Serves from construction to `close`; also a context manager. begun: when, on time.monotonic, it last began."""

    def __init__(self, clip: Path) -> None:
        self.begun = 0.0
        self._clip = clip
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self._listening.getsockname()[1]}/film"
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="rtsp server")
        self._thread.start()

    def close(self) -> None:
        """Stop serving; no thread is left."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._closed.is_set():
            with contextlib.suppress(OSError):
                line, _ = self._listening.accept()
                with line:
                    self._answer(line)

    def _answer(self, line: socket.socket) -> None:
        line.settimeout(5.0)
        for request in _requests(line):
            method, number = request[0].split()[0], next(h for h in request if h.lower().startswith("cseq"))
            line.sendall(f"RTSP/1.0 200 OK\r\n{number}\r\n{_ANSWERS[method]}".encode())
            if method == "PLAY":
                self._play(line)
                return

    def _play(self, line: socket.socket) -> None:
        out = _Rtp(line)
        with av.open(str(self._clip)) as film, av.open(out, "w", format="mpegts") as stream:
            pictures = film.streams.video[0]
            copy = stream.add_stream_from_template(pictures)
            self.begun = time.monotonic()
            for packet in film.demux(pictures):
                if packet.dts is None:
                    continue
                due = self.begun + float(packet.dts * packet.time_base)
                if self._closed.wait(max(0.0, due - time.monotonic())):
                    return
                packet.stream = copy
                stream.mux(packet)
                out.send()


class _Rtp(RawIOBase):
    """A file whose bytes leave as RTP packets, interleaved with RTSP."""

    def __init__(self, line: socket.socket) -> None:
        self._line, self._bytes, self._number = line, b"", 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._bytes += bytes(data)
        return len(data)

    def send(self) -> None:
        stamp = int(time.monotonic() * 90000) & 0xFFFFFFFF
        while self._bytes:
            part, self._bytes = self._bytes[:_CHUNK], self._bytes[_CHUNK:]
            packet = struct.pack("!BBHII", 0x80, _TYPE, self._number & 0xFFFF, stamp, 1) + part
            self._line.sendall(struct.pack("!cBH", b"$", 0, len(packet)) + packet)
            self._number += 1


def _requests(line: socket.socket) -> Iterator[list[str]]:
    waiting = b""
    while data := line.recv(4096):
        waiting += data
        while b"\r\n\r\n" in waiting:
            request, waiting = waiting.split(b"\r\n\r\n", 1)
            yield request.decode().split("\r\n")
