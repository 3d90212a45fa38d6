"""Which files are meant: patterns, which the shells of Windows leave to programs, and what lies in folders."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.conftest import needs_links
from vllama.cli.index import _clips
from vllama.runtime.media import probe, read_frames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a[1].mp4", "b[1].mp4", "c.mp4", "a1.mp4"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("*[1].mp4", ["a[1].mp4", "b[1].mp4"]),
        ("?.mp4", ["c.mp4"]),
        ("a[1].mp4", ["a[1].mp4"]),
        ("*.png", ["*.png"]),
    ],
)
def test_a_pattern_is_the_files_that_it_fits_on_windows(
    folder: Path, pattern: str, named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        clips, problems = _clips([folder / pattern])
    assert ([clip.name for clip in clips], problems) == (named, [])


@pytest.mark.skipif(sys.platform == "win32", reason="shells do not expand patterns there")
def test_a_pattern_is_a_name_where_shells_expand_it(folder: Path) -> None:
    assert _clips([folder / "*.mp4"]) == ([folder / "*.mp4"], [])


@needs_links
def test_what_is_hidden_is_left_out_and_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    films, elsewhere = tmp_path / "films", tmp_path / "elsewhere"
    for where in (films / "day", films / ".trash", elsewhere):
        where.mkdir(parents=True)
        (where / "clip.mp4").write_bytes(b"")
    (elsewhere / "back").symlink_to(films)
    for link in ("here", "there"):
        (films / link).symlink_to(elsewhere)
    assert _clips([films]) == ([films / "day" / "clip.mp4", films / "here" / "clip.mp4"], [])


@pytest.mark.parametrize(
    ("name", "form", "video", "audio"),
    [
        ("book.m4b", "mp4", None, "aac"),
        ("phone.qt", "mov", "libx264", "aac"),
        ("web.f4v", "mp4", "libx264", "aac"),
        ("camera.lrv", "mp4", "libx264", "aac"),
        ("old.divx", "avi", "mpeg4", "aac"),
        ("tape.mod", "mpeg", "mpeg2video", "mp2"),
        ("tape.tod", "mpegts", "mpeg2video", "mp2"),
        ("raw.h264", "h264", "libx264", None),
        ("long.asf", "asf", "mpeg4", "aac"),
        ("sound.au", "au", None, "pcm_s16be"),
        ("sound.wv", "wv", None, "wavpack"),
        ("picture.jfif", "", None, None),
    ],
)
def test_what_is_media_by_its_name_can_be_opened(
    tmp_path: Path, name: str, form: str, video: str | None, audio: str | None
) -> None:
    path = tmp_path / name
    if form:
        _write(path, form, video, audio)
    else:
        Image.new("RGB", (64, 48)).save(path, "JPEG")
    assert _clips([tmp_path]) == ([path], [])
    info = probe(path)
    assert (bool(len(info.frame_times)), info.has_audio) == (not audio or bool(video), bool(audio))
    if len(info.frame_times):
        assert len([*read_frames(info, [0], 32)]) == 1


def _write(path: Path, form: str, video: str | None, audio: str | None) -> None:
    with av.open(path, "w", format=form) as container:
        pictures = container.add_stream(video, 25) if video else None
        sounds = container.add_stream(audio, 16000, layout="mono") if audio else None
        if pictures:
            assert isinstance(pictures, av.VideoStream)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
            for shade in range(25):
                pixels = np.full((48, 64, 3), 10 * shade, np.uint8)
                container.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            container.mux(pictures.encode())
        if sounds:
            assert isinstance(sounds, av.AudioStream)
            tone = (0.3 * np.sin(np.arange(16000) / 8)).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
            frame.sample_rate = 16000
            for each in av.AudioResampler(sounds.format, "mono", 16000).resample(frame):
                container.mux(sounds.encode(each))
            container.mux(sounds.encode())


def test_what_is_no_media_by_its_name_is_named_up_to_five(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("A.MP4", "b.Png", *(f"{number}.txt" for number in range(1, 6))):
        (tmp_path / name).write_bytes(b"")
    said = f"vllama: note: {tmp_path}: skipped {{}} that are no video, sound or picture by their names: {{}}\n"
    named = "1.txt, 2.txt, 3.txt, 4.txt, 5.txt"
    assert _clips([tmp_path]) == ([tmp_path / "A.MP4", tmp_path / "b.Png"], [])
    assert capsys.readouterr().err == said.format(5, named)
    (tmp_path / "6.txt").write_bytes(b"")
    _clips([tmp_path])
    assert capsys.readouterr().err == said.format(6, f"{named}, ..")
