from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import needs_links
from vllama.runtime.capture import cameras
from vllama.runtime.capture.cameras import CameraName, find_video, list_cameras, why_no_camera
from vllama.runtime.capture.video_source import VideoSource
from vllama.runtime.errors import DeviceError

linux = pytest.mark.skipif(sys.platform != "linux", reason="cameras are listed by Linux only")


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """What Linux lists for a webcam with a second node for metadata, an old camera, and two of one kind."""
    nodes = {0: ("HD Webcam: HD Webcam", "0"), 1: ("HD Webcam: HD Webcam", "1"), 2: ("Old Camera", None)}
    nodes |= {10: ("Twin", "0"), 12: ("Twin", "0")}
    for number, (name, index) in nodes.items():
        node = tmp_path / f"video{number}"
        node.mkdir()
        (node / "name").write_text(f"{name}\n")
        if index is not None:
            (node / "index").write_text(f"{index}\n")
    (tmp_path / "v4l-subdev0").mkdir()
    return tmp_path


@linux
def test_cameras_are_listed_by_name_without_their_other_nodes(listed: Path) -> None:
    assert list_cameras(listed) == [
        CameraName(0, "HD Webcam: HD Webcam", "/dev/video0"),
        CameraName(2, "Old Camera", "/dev/video2"),
        CameraName(10, "Twin", "/dev/video10"),
        CameraName(12, "Twin", "/dev/video12"),
    ]


@linux
def test_a_machine_without_cameras_lists_none_and_says_why(tmp_path: Path) -> None:
    assert list_cameras(tmp_path / "none") == []
    assert why_no_camera() == "the system has no /dev/video*; plug a camera in, or use a stream or a file"


@linux
@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("0", VideoSource("camera 0", "device", "/dev/video0")),
        ("/dev/video7", VideoSource("/dev/video7", "device", "/dev/video7")),
        ("hd webcam: hd webcam", VideoSource("HD Webcam: HD Webcam", "device", "/dev/video0")),
        ("http://host/a.mjpg", VideoSource("http://host/a.mjpg", "stream", "http://host/a.mjpg")),
        ("RTSP://host/a", VideoSource("RTSP://host/a", "stream", "RTSP://host/a")),
        ("rtsp://me:secret@host/a", VideoSource("rtsp://host/a", "stream", "rtsp://me:secret@host/a")),
    ],
)
def test_a_source_is_an_index_a_device_a_name_or_a_stream(text: str, source: VideoSource, listed: Path) -> None:
    assert find_video(text, listed) == source


def test_a_source_is_a_file_by_its_path(clip: Path, listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_video(str(clip), listed) == VideoSource(str(clip), "file", str(clip))
    monkeypatch.chdir(clip.parent)
    assert find_video(clip.name, listed) == VideoSource(clip.name, "file", str(clip))


@linux
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Twin", "Twin: 2 cameras are called so; use /dev/video10 or /dev/video12"),
        ("ftp://host/a", "ftp://host/a: ftp:// is not a known kind of stream; use rtsp:// or http://"),
        ("rtsp://me:secret@[fe80::1/x", "rtsp://[fe80::1/x: invalid ipv6 url; correct the address"),
        ("Webcam", "Webcam: no such camera or file; `vllama devices` lists the cameras"),
        ("", ": no such camera or file; `vllama devices` lists the cameras"),
    ],
)
def test_what_means_nothing_is_one_line(text: str, said: str, listed: Path) -> None:
    with pytest.raises(DeviceError) as raised:
        find_video(text, listed)
    assert str(raised.value) == said


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_where_no_names_are_known_no_camera_is_opened_to_find_one(
    system: str, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(cameras, "opens", lambda source: pytest.fail(f"{source} was opened"))
    assert find_video(str(clip)) == VideoSource(str(clip), "file", str(clip))
    assert find_video("Camera 3") == VideoSource("camera 3", "device", 3)
    with pytest.raises(DeviceError, match=r"^FaceTime: no such camera or file"):
        find_video("FaceTime")


@pytest.mark.parametrize(("system", "tried"), [("darwin", [0, 1]), ("win32", [0, 1, 2, 3, 4])])
def test_where_no_names_are_known_the_numbers_that_open_are_listed(
    system: str, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def opens(source: VideoSource) -> bool:
        asked.append(source.address)
        return source.address in (0, 2)

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(cameras, "opens", opens)
    there = [0] if system == "darwin" else [0, 2]
    assert list_cameras() == [CameraName(number, f"camera {number}", "") for number in there]
    assert asked == tried


@needs_links
def test_a_file_comes_before_a_camera_of_the_same_name(
    clip: Path, listed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "Old Camera").symlink_to(clip)
    monkeypatch.chdir(tmp_path)
    assert find_video("Old Camera", listed).kind == "file"


def test_a_password_is_shown_nowhere(listed: Path) -> None:
    assert "secret" not in find_video("rtsp://me:secret@host/a", listed).name
    with pytest.raises(DeviceError) as raised:
        find_video("ftp://me:secret@host/a", listed)
    assert "secret" not in str(raised.value)
