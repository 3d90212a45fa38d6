"""Cameras and microphones that vanish, hang, sleep and come back; what is not there, not permitted, or no camera."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live import waiting
from tests.live.mjpeg import MjpegServer
from tests.live.pulse import RATE, Pulse, missing
from vllama.runtime.capture.camera import Camera
from vllama.runtime.capture.clock import Clock
from vllama.runtime.capture.microphone import Microphone
from vllama.runtime.capture.source import Source
from vllama.runtime.capture.video_source import VideoSource, open_video
from vllama.runtime.errors import DeviceError

SIZE = 56
PATIENCE = 40.0  # the longest wait between two tries is 10 s
NOBODY = 65534


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def server(clip: Path) -> Iterator[MjpegServer]:
    with MjpegServer(clip) as server:
        yield server


@pytest.fixture
def camera(server: MjpegServer, notes: list[str]) -> Iterator[Camera]:
    camera = Camera(server.url, SIZE, Clock(), notes.append)
    assert camera.newest(-1, PATIENCE) is not None
    yield camera
    closed(camera)


@pytest.fixture
def pulse(tmp_path: Path) -> Iterator[Pulse]:
    if missing():
        pytest.skip(missing())
    with Pulse(tmp_path / "pulse") as pulse:
        yield pulse


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def microphone(pulse: Pulse, notes: list[str], clock: Clock) -> Iterator[Microphone]:
    microphone = Microphone("default", RATE, clock, notes.append)
    yield microphone
    closed(microphone)


def wanted() -> bool:
    return True


def closed(source: Source) -> None:
    source.close()
    assert source.name not in [thread.name for thread in threading.enumerate()]


def until(source: Source, state: str) -> None:
    waiting.until(lambda: source.status.state == state, PATIENCE)


def one_line(*notes: str) -> None:
    for note in notes:
        assert note == " ".join(note.split())
        assert not note.endswith(".")


def test_a_camera_that_vanishes_is_lost_and_seen_again_when_it_is_back(
    server: MjpegServer, camera: Camera, notes: list[str]
) -> None:
    server.kill()
    until(camera, "lost")
    assert camera.newest(-1, 0.1) is None
    assert camera.picture() is None
    time.sleep(1.0)
    assert "connection refused" in camera.status.detail
    server.start()
    until(camera, "on")
    assert camera.newest(-1, PATIENCE) is not None
    lost, back = notes
    one_line(*notes)
    assert lost == f"{server.url}: the connection ended; see whether the camera is on; trying again"
    assert back.startswith(f"{server.url}: back after ")


def test_a_camera_that_hangs_is_lost_within_seconds_and_its_last_picture_is_not_shown(
    server: MjpegServer, camera: Camera, notes: list[str]
) -> None:
    server.stall()
    begun = time.monotonic()
    time.sleep(2.3)
    assert camera.newest(-1, 0.0) is None  # not yet known to be lost, but not what is seen now
    assert camera.picture() is None
    until(camera, "lost")
    assert time.monotonic() - begun < 15.0
    server.resume()
    until(camera, "on")
    assert camera.newest(-1, PATIENCE) is not None
    assert notes[0] == f"{server.url}: no picture for 3 s; see whether the camera hangs; trying again"


def test_a_camera_that_hangs_can_be_closed(server: MjpegServer, notes: list[str]) -> None:
    camera = Camera(server.url, SIZE, Clock(), notes.append)
    server.stall()
    begun = time.monotonic()
    closed(camera)
    assert time.monotonic() - begun < 15.0


def test_a_camera_that_is_gone_is_closed_at_once(server: MjpegServer, camera: Camera) -> None:
    server.kill()
    until(camera, "lost")
    time.sleep(2.0)  # the next try is seconds away
    begun = time.monotonic()
    camera.close()
    assert time.monotonic() - begun < 1.0


def test_a_stream_that_sends_nothing_cannot_be_opened(server: MjpegServer, notes: list[str]) -> None:
    server.stall()
    with pytest.raises(DeviceError) as raised:
        Camera(server.url, SIZE, Clock(), notes.append)
    one_line(str(raised.value))
    assert "sends no video within 5 s" in str(raised.value)


def test_an_address_without_a_camera_says_what_it_answers(server: MjpegServer, notes: list[str]) -> None:
    with pytest.raises(DeviceError, match=r"/nothing: the camera answers 404 Not Found; check the address$"):
        Camera(server.url.replace("camera.mjpg", "nothing"), SIZE, Clock(), notes.append)


@pytest.mark.skipif(sys.platform == "win32", reason="its cameras are no files")
def test_a_device_that_may_not_be_opened_says_how_to_get_the_permission(tmp_path: Path) -> None:
    node = tmp_path / "video0"
    node.touch(0o600)
    own = os.geteuid()
    if own:
        node.chmod(0o000)
    else:
        os.seteuid(NOBODY)
    try:
        said = r"^camera 0: no permission to open .*; run `sudo usermod -aG video"
        with pytest.raises(DeviceError, match=said), open_video(VideoSource("camera 0", "device", str(node)), wanted):
            pass
    finally:
        os.seteuid(own)


@pytest.mark.skipif(sys.platform == "win32", reason="its cameras are no files")
def test_a_device_that_is_no_camera_cannot_be_opened(tmp_path: Path) -> None:
    node = tmp_path / "video0"
    node.touch()
    said = r"^camera 0: cannot be opened; plug it in again, or close the program"
    with pytest.raises(DeviceError, match=said), open_video(VideoSource("camera 0", "device", str(node)), wanted):
        pass


@pytest.mark.parametrize("name", ["text", "sound", "empty", "folder"])
def test_a_file_without_pictures_is_no_camera(name: str, sound_file: Path, tmp_path: Path, notes: list[str]) -> None:
    (tmp_path / "text").write_text("no film\n" * 100)
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    path = sound_file if name == "sound" else tmp_path / name
    with pytest.raises(DeviceError) as raised:
        Camera(str(path), SIZE, Clock(), notes.append)
    one_line(str(raised.value))
    assert str(path) in str(raised.value)


def test_opencv_and_ffmpeg_leave_stderr_alone(clip: Path, server: MjpegServer, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from vllama.runtime.capture.camera import Camera
        from vllama.runtime.capture.clock import Clock
        from vllama.runtime.errors import DeviceError
        for source in sys.argv[1:]:
            try:
                Camera(source, 56, Clock(), print).close()
            except DeviceError as error:
                print(error)
    """
    cut = tmp_path / "cut.avi"
    cut.write_bytes(clip.read_bytes()[:2000])
    nothing = server.url.replace("camera.mjpg", "nothing")
    sources = (nothing, server.url, "rtsp://127.0.0.1:9/x", "98", str(cut), str(clip))
    done = subprocess.run([sys.executable, "-c", code, *sources], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 4


@pytest.mark.parametrize("first", ["av", "cv2"])
def test_opencv_and_pyav_decode_in_one_process(first: str, clip: Path) -> None:
    code = """if True:
        import importlib, sys, threading
        importlib.import_module(sys.argv[1])
        import av, cv2
        counts = []
        def by_opencv():
            film = cv2.VideoCapture(sys.argv[2], cv2.CAP_FFMPEG)
            counts.append(sum(1 for _ in iter(lambda: film.grab() and film.retrieve()[0], False)))
        def by_pyav():
            with av.open(sys.argv[2]) as film:
                counts.append(sum(1 for frame in film.decode(video=0)))
        threads = [threading.Thread(target=by) for by in (by_opencv, by_pyav) * 3]
        for step in (threading.Thread.start, threading.Thread.join):
            for thread in threads:
                step(thread)
        print(counts)
    """
    done = subprocess.run([sys.executable, "-c", code, first, clip], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[40, 40, 40, 40, 40, 40]", "")


def test_a_microphone_that_sleeps_is_lost_and_heard_again_when_it_wakes(
    pulse: Pulse, microphone: Microphone, clock: Clock, notes: list[str]
) -> None:
    asleep = clock.now()
    pulse.suspend(True)
    until(microphone, "lost")
    assert microphone.clip(clock.now() - 0.5, 0.3, PATIENCE) is None
    pulse.suspend(False)
    until(microphone, "on")
    heard = microphone.heard()
    assert heard is not None
    assert heard[0] >= asleep + 1.0
    lost, back = notes
    one_line(*notes)
    assert lost == "default: no sound comes; see whether it is asleep, or used elsewhere; trying again"
    assert back.startswith("default: back after ")


def gone(pulse: Pulse, how: str) -> Callable[[], None]:
    """Take the microphone away; what brings it back."""
    if how == "unloaded":
        pulse.unload()
        return pulse.load
    pulse.kill()
    return pulse.start


@pytest.mark.parametrize("how", ["unloaded", "killed"])
def test_a_microphone_that_vanishes_is_heard_again_when_it_is_back(
    pulse: Pulse, microphone: Microphone, clock: Clock, notes: list[str], how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    time.sleep(0.3)
    bring_back = gone(pulse, how)
    until(microphone, "lost")
    before = microphone.heard()
    time.sleep(1.2)  # long enough for a try that fails
    one_line(microphone.status.detail)
    assert microphone.clip(clock.now() - 0.2, 0.4, PATIENCE) is None
    bring_back()
    until(microphone, "on")
    begun = clock.now()
    assert microphone.clip(begun, 0.3, PATIENCE) is not None
    assert before is not None
    assert microphone.clip(before[0], 0.2, 0.0) is not None  # what was heard before is still known
    lost, back = notes
    one_line(*notes)
    assert lost == ("default: unplugged, or its sound server ended; plug it in, or start that again; trying again")
    assert back.startswith("default: back after ")
    assert capfd.readouterr().err == ""  # ALSA and PortAudio have much to say


def test_a_microphone_that_is_gone_is_closed_at_once_and_is_no_longer_there(
    pulse: Pulse, microphone: Microphone, notes: list[str]
) -> None:
    pulse.kill()
    until(microphone, "lost")
    time.sleep(2.0)  # the next try is seconds away
    begun = time.monotonic()
    microphone.close()
    assert time.monotonic() - begun < 1.0
    with pytest.raises(DeviceError, match=r"^default: there is no microphone: "):
        Microphone("default", RATE, Clock(), notes.append)


def test_a_sound_server_that_hangs_holds_nobody_for_long(pulse: Pulse) -> None:
    code = """if True:
        import signal, sys, time
        from vllama.runtime.capture.clock import Clock
        from vllama.runtime.capture.microphone import Microphone
        microphone = Microphone("default", 16000, Clock(), print)
        print("open", flush=True)
        sys.stdin.read()
        begun = time.monotonic()
        microphone.close()
        print(time.monotonic() - begun)
    """
    with subprocess.Popen(
        [sys.executable, "-c", code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as done:
        assert done.stdin is not None
        assert done.stdout is not None
        try:
            assert done.stdout.readline() == "open\n"
            pulse.freeze(True)
            done.stdin.close()
            assert float(done.stdout.readline()) < 10.0
            assert done.wait(PATIENCE) == 0
        finally:
            pulse.freeze(False)
            done.kill()


def test_c_libraries_are_heard_again_once_the_microphone_is_closed(pulse: Pulse) -> None:
    code = """if True:
        import ctypes
        from vllama.runtime.capture.clock import Clock
        from vllama.runtime.capture.microphone import Microphone
        library = ctypes.CDLL(None)
        def say(words):
            library.fputs(words, ctypes.c_void_p.in_dll(library, "stderr"))
            library.fflush(None)
        say(b"before ")
        microphone = Microphone("default", 16000, Clock(), print)
        say(b"meanwhile ")
        microphone.close()
        say(b"after")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "before after")


@pytest.mark.skipif(sys.platform == "win32", reason="sounddevice brings PortAudio there")
def test_a_machine_without_portaudio_is_told_which_package_to_install() -> None:
    code = """if True:
        import ctypes.util
        ctypes.util.find_library = lambda name: None  # what it says where there is none
        from vllama.runtime.capture.clock import Clock
        from vllama.runtime.errors import DeviceError
        from vllama.runtime.capture.microphone import Microphone
        try:
            Microphone("default", 16000, Clock(), print)
        except DeviceError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("the microphone needs PortAudio, which is not there; install")
    if sys.platform == "linux":
        assert "libportaudio2" in done.stdout
