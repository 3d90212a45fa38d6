"""The camera on a network camera of this machine's own, and on files."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from tests.live.mjpeg import MjpegServer
from tests.live.rtsp import RtspServer
from tests.live.waiting import until
from vllama.runtime.capture import camera as module
from vllama.runtime.capture.camera import Camera, _Backlog
from vllama.runtime.capture.clock import Clock
from vllama.runtime.capture.video_source import VideoSource
from vllama.runtime.errors import DeviceError
from vllama.runtime.media import probe, read_frames
from vllama.runtime.types import Frame

SIZE = 64
PATIENCE = 20.0
Open = Callable[..., Camera]
linux = pytest.mark.skipif(sys.platform != "linux", reason="cameras are files on Linux alone")


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def open_camera(notes: list[str]) -> Iterator[Open]:
    """Open cameras that are closed at the end, and leave no thread."""
    opened: list[Camera] = []

    def opener(source: object, clock: Clock | None = None) -> Camera:
        opened.append(Camera(str(source), SIZE, clock or Clock(), notes.append))
        return opened[-1]

    yield opener
    for camera in opened:
        camera.close()
    assert {camera.name for camera in opened}.isdisjoint(thread.name for thread in threading.enumerate())


@pytest.fixture
def server(clip: Path) -> Iterator[MjpegServer]:
    with MjpegServer(clip) as server:
        yield server


@contextmanager
def _served(folder: Path) -> Iterator[int]:
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """A server says nothing."""

    def handle(self) -> None:
        with suppress(ConnectionError):  # FFmpeg hangs up as soon as it knows enough
            super().handle()


def newest(camera: Camera, after: int = -1) -> Frame:
    frame = camera.newest(after, PATIENCE)
    assert frame is not None, camera.status
    return frame


def shown(pixels: np.ndarray) -> int:
    """Which picture of the clip it is, by where its bar is: 3 of 128 columns further each time, 38 places."""
    bar = np.flatnonzero((pixels[..., 0].astype(int) - pixels[..., 2]).mean(0) > 60)
    place: float = float(bar[0]) * 128 / pixels.shape[1] / 3
    return round(place)


def test_whoever_opens_a_camera_asks_for_the_permission_before_its_thread_opens_it(
    clip: Path, open_camera: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    def await_permission(source: VideoSource, note: Callable[[str], None]) -> None:
        asked.append((source.name, threading.current_thread() is threading.main_thread()))
        assert source.name not in [thread.name for thread in threading.enumerate()]

    monkeypatch.setattr(module, "await_permission", await_permission)
    open_camera(clip)
    assert asked == [(str(clip), True)]


def test_pictures_of_a_stream_come_as_they_are_sent(server: MjpegServer, open_camera: Open) -> None:
    camera = open_camera(server.url)
    frames = [newest(camera)]
    while len(frames) < 12:
        frames.append(newest(camera, frames[-1].index))
    assert frames[0].pixels.shape == (SIZE, SIZE, 3)
    assert frames[0].pixels.dtype == np.uint8
    assert [later.index > earlier.index for earlier, later in pairwise(frames)] == [True] * 11
    gaps = np.diff([frame.time for frame in frames])
    assert 0.05 < np.median(gaps) < 0.2, gaps  # ten a second
    assert camera.status.name == server.url
    assert camera.status.state == "on"


def test_a_picture_has_the_time_at_which_it_was_sent(server: MjpegServer, open_camera: Open) -> None:
    clock = Clock()
    offset = time.monotonic() - clock.now()
    camera = open_camera(server.url, clock)
    frame = newest(camera)
    flash = server.flash() - offset
    while frame.pixels.min() < 200:
        frame = newest(camera, frame.index)
    assert frame.time == pytest.approx(flash, abs=0.25)


def test_an_rtsp_stream_is_seen_as_it_is_sent_though_its_opening_took_a_while(
    silent_clip: Path, open_camera: Open
) -> None:
    clock = Clock()
    offset = time.monotonic() - clock.now()
    with RtspServer(silent_clip) as server:
        camera = open_camera(server.url, clock)
        frame: Frame | None = newest(camera)
        ages: list[float] = []
        begun = server.begun - offset
        while frame is not None and frame.time < begun + 3.5:
            ages.append(frame.time - begun - shown(frame.pixels) / 10)
            frame = camera.newest(frame.index, 1.0)
        camera.close()
    assert len(ages) >= 3
    assert -0.15 < min(ages) <= max(ages) < 0.7, ages  # H.264 keeps two pictures back


def test_a_film_that_a_server_offers_is_played_in_real_time(
    render_clip: Callable[..., Path], tmp_path: Path, open_camera: Open
) -> None:
    render_clip(tmp_path / "film.mkv", picture=True, sound=False, seconds=2)
    with _served(tmp_path) as port:
        camera = open_camera(f"http://127.0.0.1:{port}/film.mkv")
        first = newest(camera)
        time.sleep(1.0)
        later = newest(camera, first.index)
        until(lambda: camera.status.state == "ended")
    assert later.time - first.time == pytest.approx((later.index - first.index) / 10, abs=0.01)
    assert 7 <= later.index - first.index <= 15
    assert (camera.status.state, camera.status.seen) == ("ended", 20)


def test_nothing_newer_is_none_after_the_timeout(server: MjpegServer, open_camera: Open) -> None:
    camera = open_camera(server.url)
    frame = newest(camera)
    begun = time.perf_counter()
    assert camera.newest(frame.index + 10_000, 0.2) is None
    assert time.perf_counter() - begun >= 0.2


def test_a_picture_that_nobody_took_is_counted(server: MjpegServer, open_camera: Open) -> None:
    camera = open_camera(server.url)
    newest(camera)
    time.sleep(1.0)
    status = camera.status
    assert status.seen >= 8
    assert 5 <= status.dropped < status.seen


def test_the_whole_picture_is_there_for_a_snapshot(server: MjpegServer, open_camera: Open) -> None:
    camera = open_camera(server.url)
    newest(camera)
    taken = camera.picture()
    assert taken is not None
    assert taken[1].shape == (96, 128, 3)
    assert np.abs(taken[1][90, 2].astype(int) - (40, 60, 90)).max() < 25  # RGB


def test_a_file_is_a_camera_in_real_time_with_the_pictures_of_the_file(
    render_clip: Callable[..., Path], tmp_path: Path, open_camera: Open, notes: list[str]
) -> None:
    path = render_clip(tmp_path / "two.mp4", picture=True, sound=False, seconds=2)
    info = probe(path)
    wanted = [frame.pixels for frame in read_frames(info, range(len(info.frame_times)), SIZE)]
    camera = open_camera(path)
    frames = [newest(camera)]
    while (frame := camera.newest(frames[-1].index, 1.0)) is not None:
        frames.append(frame)
    assert len(frames) >= 8
    times = np.array([frame.time for frame in frames])
    np.testing.assert_allclose(times - times[0], [(frame.index - frames[0].index) / 10 for frame in frames], atol=1e-3)
    for frame in frames:
        apart = [np.abs(frame.pixels.astype(int) - other).mean() for other in wanted]
        assert int(np.argmin(apart)) == frame.index, apart
        assert apart[frame.index] < 6.0  # OpenCV makes RGB before it is made smaller, which shows at hard edges
    until(lambda: notes)
    assert notes == [f"{path}: ended"]
    assert (camera.status.state, camera.status.detail, camera.status.seen) == ("ended", "", 20)
    assert camera.newest(-1, 0.0) is None
    assert camera.picture() is None


def test_a_film_without_times_is_played_at_its_rate(silent_clip: Path, tmp_path: Path, open_camera: Open) -> None:
    path = tmp_path / "bare.h264"
    with av.open(str(silent_clip)) as film, av.open(str(path), "w", format="h264") as bare:
        copy = bare.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(film.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copy
                bare.mux(packet)
    camera = open_camera(path)
    frames = [newest(camera)]
    while (frame := camera.newest(frames[-1].index, 1.0)) is not None:
        frames.append(frame)
    first, last = frames[0], frames[-1]
    assert last.index >= 35
    assert 0.01 < (last.time - first.time) / (last.index - first.index) <= 0.1  # the rate is guessed, too


def test_a_file_goes_on_where_it_was_paused(clip: Path, open_camera: Open) -> None:
    camera = open_camera(clip)
    frame = newest(camera)
    while shown(frame.pixels) < 8:
        frame = newest(camera, frame.index)
    camera.pause()
    time.sleep(0.5)
    assert camera.newest(-1, 0.0) is None
    camera.resume()
    after = newest(camera, frame.index)
    assert shown(frame.pixels) <= shown(after.pixels) <= shown(frame.pixels) + 4
    assert after.time >= frame.time + 0.5


def test_a_paused_camera_lets_its_stream_go(server: MjpegServer, open_camera: Open, notes: list[str]) -> None:
    camera = open_camera(server.url)
    newest(camera)
    camera.pause()
    paused = camera.status
    assert paused.state == "paused"
    until(lambda: not server.connections)
    assert camera.newest(-1, 0.0) is None
    camera.resume()
    newest(camera)
    assert camera.status.state == "on"
    assert notes == []


def test_what_lay_in_a_buffer_is_passed_over_not_shown_late(clip: Path, open_camera: Open) -> None:
    clock = Clock()
    offset = time.monotonic() - clock.now()
    with MjpegServer(clip, loop=False) as server:
        camera = open_camera(server.url, clock)
        newest(camera)
        begun = server.show(clip) - offset
        until(lambda: clock.now() > begun + 0.5)
        server.stall()
        until(lambda: clock.now() > begun + 2.0)
        server.resume(late=True)  # fifteen pictures at once
        frame, ages = newest(camera), []
        while frame.time < begun + 3.3:
            if frame.time > begun + 1.5:
                ages.append(frame.time - begun - shown(frame.pixels) / 10)
            frame = newest(camera, frame.index)
    assert len(ages) >= 3
    assert max(ages) < 0.35, ages


@pytest.mark.parametrize(
    ("source", "said"),
    [
        pytest.param("99", "camera 99: there is no /dev/video99; `vllama devices` lists the cameras", marks=linux),
        pytest.param(
            "/dev/video98", "/dev/video98: there is no /dev/video98; `vllama devices` lists the cameras", marks=linux
        ),
        ("no such", "no such: no such camera or file; `vllama devices` lists the cameras"),
        (
            "rtsp://user:secret@127.0.0.1:9/live",
            "rtsp://127.0.0.1:9/live: connection refused; see whether the camera is on and the address is right",
        ),
    ],
)
def test_what_cannot_be_opened_is_one_line(source: str, said: str, notes: list[str]) -> None:
    before = threading.enumerate()
    with pytest.raises(DeviceError) as raised:
        Camera(source, SIZE, Clock(), notes.append)
    assert str(raised.value) == said
    assert threading.enumerate() == before
    assert notes == []


def test_a_backlog_lasts_until_two_pictures_in_a_row_were_waited_for() -> None:
    backlog = _Backlog()
    opened = [backlog.fresh(0.001 * number, 0.0) for number in range(20)]
    caught_up = [backlog.fresh(0.1 + 0.04 * number, 0.03) for number in range(5)]
    assert opened == [False] * 20
    assert caught_up == [False, True, True, True, True]


def test_a_pause_and_a_long_run_without_waiting_are_taken_for_a_backlog() -> None:
    backlog = _Backlog()
    steady = [backlog.fresh(0.04 * number, 0.03) for number in range(10)]
    assert steady == [False, *[True] * 9]
    assert not backlog.fresh(1.0, 0.6)  # may have lain on the way
    assert [backlog.fresh(1.0 + 0.002 * number, 0.0) for number in range(10)] == [False] * 10
    assert [backlog.fresh(1.1 + 0.04 * number, 0.03) for number in range(3)] == [False, True, True]
    slow = [backlog.fresh(1.3 + 0.04 * number, 0.0) for number in range(15)]
    assert slow[:9] == [True] * 9
    assert slow[9:] == [False] * 6
    assert backlog.lasts(1.3 + 0.04 * 14) == pytest.approx(0.68)


def test_a_camera_of_one_picture_a_second_is_seen() -> None:
    backlog = _Backlog()
    assert [backlog.fresh(float(number), 0.99) for number in range(6)] == [False, *[True] * 5]
