"""A network camera on this machine: a video file, in real time, as multipart/x-mixed-replace over HTTP.

What a real one can do to a client it can do too: vanish (`kill`), keep the connection and send nothing (`stall`), go on
with the newest picture or with all that was missed (`resume`), come back (`start`).
"""

from __future__ import annotations

import contextlib
import io
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

import av
from PIL import Image

_KEPT = 300  # pictures that `resume(late=True)` can make up for
_BOUNDARY = "picture"


class MjpegServer:
    """Serves from construction to `close`; also a context manager.

    clip: plays in real time by its average rate, again and again; with loop=False its last picture stays. show: switch
    to another clip. Times are those of time.monotonic.
    """

    def __init__(self, clip: Path, *, loop: bool = True) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}/camera.mjpg"
        self._loop = loop
        self._news = threading.Condition()
        self._sent: deque[tuple[int, bytes]] = deque(maxlen=_KEPT)  # (number, JPEG)
        self._film = self._next = _Film(clip)
        self._next_at = self._flash_at = math.inf
        self._stalled = self._closed = self._late = False
        self._started = self._due = time.monotonic()
        self._projector = threading.Thread(target=self._project, name="projector")
        self._projector.start()
        self._http: _Server | None = None
        self.start()

    def start(self) -> None:
        """Answer again after `kill`, at the same address."""
        if self._http is None:
            self._http = _Server(("127.0.0.1", self.port), self)

    def kill(self) -> None:
        """Vanish: every connection is cut, no new one is taken."""
        server, self._http = self._http, None
        if server is not None:
            server.stop()

    def stall(self) -> None:
        """Keep the connections, send nothing."""
        with self._news:
            self._stalled = True

    def resume(self, *, late: bool = False) -> None:
        """Send again: what is now, or (late) first all that was missed, at once, as a network that hung does."""
        with self._news:
            self._stalled, self._late = False, late
            self._news.notify_all()

    def show(self, clip: Path, *, loop: bool | None = None, ahead: float = 0.0) -> float:
        """Play another clip from its start, so many seconds ahead or as soon after as possible; the time of that."""
        film = _Film(clip)
        with self._news:
            self._next, self._loop = film, self._loop if loop is None else loop
            self._next_at = self._due_after(ahead)
            return self._next_at

    def flash(self, ahead: float = 0.5) -> float:
        """Show one white picture, so many seconds ahead or as soon after as one is due; the time of it."""
        with self._news:
            self._flash_at = self._due_after(ahead)
            return self._flash_at

    def _due_after(self, ahead: float) -> float:
        """When a picture is due, at least so many seconds ahead, that was not taken from the film yet."""
        step = 1.0 / self._film.rate
        return self._due + max(1, math.ceil((time.monotonic() + ahead - self._due) / step)) * step

    @property
    def connections(self) -> int:
        """Clients that are being served."""
        return len(self._http.open) if self._http is not None else 0

    def close(self) -> None:
        """Stop serving; no thread is left."""
        self.kill()
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._projector.join()

    def __enter__(self) -> MjpegServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _project(self) -> None:
        number = count = 0
        while True:
            with self._news:
                due = self._due
                if due >= self._next_at - 1e-6:
                    self._film, count, self._next_at = self._next, 0, math.inf
                film = self._film
                white = due >= self._flash_at - 1e-6
            picture = film.white if white else film.jpeg(count, loop=self._loop)
            with self._news:
                self._news.wait_for(lambda: self._closed, max(0.0, due - time.monotonic()))
                if self._closed:
                    return
                self._sent.append((number, picture))
                self._flash_at = math.inf if white else self._flash_at
                number, count = number + 1, count + 1
                self._due = max(due + 1.0 / film.rate, time.monotonic() - 1.0)
                self._news.notify_all()

    def pictures(self, server: _Server) -> Iterator[bytes]:
        """What a client of that server is sent, as it is due."""
        last = -1
        while True:
            with self._news:
                while not server.stopped and (self._stalled or not self._sent or self._sent[-1][0] == last):
                    self._news.wait()
                if server.stopped:
                    return
                missed = [picture for number, picture in self._sent if number > last]
                out = missed if self._late and last >= 0 else missed[-1:]
                last, self._late = self._sent[-1][0], False
            yield from out

    def wake(self) -> None:
        """Let every client look whether its server was stopped."""
        with self._news:
            self._news.notify_all()


class _Film:
    """The pictures of a clip as JPEG, each encoded once, when it is first shown."""

    def __init__(self, clip: Path) -> None:
        with av.open(str(clip)) as container:
            stream = container.streams.video[0]
            self.rate = float(stream.average_rate or 25)
            frames = (frame.to_ndarray(format="rgb24") for frame in container.decode(stream))
            self._pictures: list[Image.Image | bytes] = [Image.fromarray(frame) for frame in frames]
        first = self._pictures[0]
        assert isinstance(first, Image.Image)
        self.white = _jpeg(Image.new("RGB", first.size, "white"))

    def jpeg(self, count: int, *, loop: bool) -> bytes:
        number = count % len(self._pictures) if loop else min(count, len(self._pictures) - 1)
        picture = self._pictures[number]
        if isinstance(picture, Image.Image):
            self._pictures[number] = picture = _jpeg(picture)
        return picture


class _Server(ThreadingHTTPServer):
    """One life of the camera between `start` and `kill`."""

    daemon_threads = False
    block_on_close = True

    def __init__(self, address: tuple[str, int], camera: MjpegServer) -> None:
        self.camera, self.open, self.stopped = camera, set[socket.socket](), False
        super().__init__(address, _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), name="mjpeg server")
        self._thread.start()

    def stop(self) -> None:
        self.stopped = True
        self.shutdown()
        for connection in list(self.open):
            _cut(connection)
        self.camera.wake()
        self._thread.join()
        self.server_close()  # waits for the handlers


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        if not self.path.endswith(".mjpg"):
            self.send_error(404)
            return
        self.server.open.add(self.connection)
        try:
            self.send_response(200)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
            self.end_headers()
            for picture in self.server.camera.pictures(self.server):
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                self.wfile.write(head.encode() + picture + b"\r\n")
        except OSError:
            pass  # the client went, or `kill` cut the line
        finally:
            self.server.open.discard(self.connection)

    def log_message(self, format: str, *args: object) -> None:
        """A camera says nothing."""


def _jpeg(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    return out.getvalue()


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # gone already
        connection.shutdown(socket.SHUT_RDWR)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
