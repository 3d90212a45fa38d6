"""Clips that are damaged, odd or no clips at all, given to `vllama ask` as a person would."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from PIL import Image

Run = subprocess.CompletedProcess[str]
Ask = Callable[..., Run]


@pytest.fixture
def ask(vllama: Callable[..., Run], tiny_bundle: Path) -> Ask:
    return lambda clip, *options, **more: vllama(
        "ask", clip, "What?", "--model", tiny_bundle, "-n", 2, *options, **more
    )


def refused(done: Run, *said: str) -> None:
    """One line on stderr that says all that, exit code 4, and nothing on stdout."""
    assert (done.returncode, done.stdout) == (4, ""), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("vllama: "), line
    for words in said:
        assert words in line, line


def answered(done: Run) -> str:
    """The one line about what was seen and heard."""
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 1
    (line,) = done.stderr.splitlines()
    return line


def film(
    path: Path,
    pictures: int = 10,
    seconds: float = 1.0,
    *,
    rate: int = 44100,
    layout: str = "stereo",
    audio: str = "aac",
    ticks: list[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    with av.open(path, "w", options=options or {}) as container:
        video = container.add_stream("libx264", 10) if pictures else None
        stream = cast(av.AudioStream, container.add_stream(audio, rate, layout=layout)) if seconds else None
        if video is not None:
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            if ticks:
                video.codec_context.time_base = Fraction(1, 1000)
            for number in range(pictures):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * number % 256, np.uint8), "rgb24")
                if ticks:
                    frame.pts, frame.time_base = ticks[number], Fraction(1, 1000)
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if stream is not None:
            channels = len(av.AudioLayout(layout).channels)
            time = np.arange(round(seconds * rate)) / rate
            sound = np.stack([0.3 * np.sin(2 * np.pi * 300 * (number + 1) * time) for number in range(channels)])
            block = av.AudioFrame.from_ndarray(sound.astype(np.float32), "fltp", layout)
            block.sample_rate = rate
            container.mux(stream.encode(block))
            container.mux(stream.encode())
    return path


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize(("flags", "share"), [("", 0.5), ("", 0.9), ("faststart", 0.6)])
def test_a_cut_mp4_is_refused(ask: Ask, tmp_path: Path, flags: str, share: float) -> None:
    options = {"movflags": flags} if flags else None
    refused(ask(cut(film(tmp_path / "clip.mp4", options=options), share)), "clip.mp4: ", "get ", "cut")


def test_an_empty_file_a_letter_and_a_folder_are_refused(ask: Ask, tmp_path: Path) -> None:
    empty, letter, folder = tmp_path / "empty.mp4", tmp_path / "letter.mp4", tmp_path / "folder.mp4"
    empty.touch()
    letter.write_text("Dear reader,\nthis is no film.\n" * 50, "utf-8")
    folder.mkdir()
    refused(ask(empty), "empty.mp4: is empty; get the file again")
    refused(ask(letter), "letter.mp4: cannot be decoded", "no media file")
    refused(ask(folder), "folder.mp4: is a folder; give a file of it, or encode all in it with `vllama index FOLDER`")
    if sys.platform != "win32":  # which has words of its own
        refused(ask(tmp_path / ("x" * 300)), "File name too long; ")


def test_a_file_that_may_not_be_read_is_refused(ask: Ask, tmp_path: Path, unprivileged: Callable[[], None]) -> None:
    path = film(tmp_path / "secret.mp4")
    path.chmod(0)
    refused(ask(path, preexec_fn=unprivileged), "secret.mp4: ", "ermission")


def test_damaged_pictures_are_refused(ask: Ask, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    photo = tmp_path / "photo.jpg"
    Image.fromarray(noise).save(photo)
    refused(ask(cut(photo, 0.6)), "photo.jpg: cannot be decoded", "get the picture again")


def test_garbage_in_the_sound_is_refused_and_left_out_with_no_audio(ask: Ask, tmp_path: Path) -> None:
    path = film(tmp_path / "clip.mp4")
    content = bytearray(path.read_bytes())
    with av.open(path) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(audio=0) if packet.size]
    for place, size in packets:
        content[place : place + size] = np.random.default_rng(place).integers(0, 256, size, np.uint8).tobytes()
    path.write_bytes(content)
    refused(ask(path), "clip.mp4: its sound cannot be decoded", "--no-audio")
    assert "heard nothing: --no-audio" in answered(ask(path, "--no-audio"))


def test_sound_that_changes_its_form_is_refused(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "radio.aac"
    parts = [film(tmp_path / "a.aac", 0), film(tmp_path / "b.aac", 0, rate=22050, layout="mono")]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    refused(ask(path), "44100 Hz, 2 channels to 22050 Hz, 1 channels; convert it")


def test_damage_in_the_sound_of_a_joined_mp3_is_told_and_the_rest_is_heard(ask: Ask, tmp_path: Path) -> None:
    path = film(tmp_path / "talk.mp3", 0, 3.0, audio="libmp3lame")
    content = bytearray(path.read_bytes())
    with av.open(path) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(audio=0) if packet.size]
    for place, size in packets[40:60]:
        content[place + 4 : place + size] = bytes([255] * (size - 4))
    path.write_bytes(content)
    done = ask(path)
    note, line = done.stderr.splitlines()
    assert note.endswith(" s of its sound are damaged and heard as silence"), done
    assert line.startswith("saw nothing: a sound file; heard 0.0-"), done


def test_sound_in_the_second_channel_alone_is_told(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "call.wav"
    sound = np.stack([np.zeros(16000), 0.3 * np.sin(np.arange(16000) / 10)]).astype(np.float32)
    with av.open(path, "w") as container:
        stream = container.add_stream("pcm_s16le", 16000, layout="stereo")
        block = av.AudioFrame.from_ndarray(sound, "fltp", "stereo")
        block.sample_rate = 16000
        container.mux(stream.encode(block) + stream.encode())
    note, line = ask(path).stderr.splitlines()
    assert "call.wav: only the first channel of its sound is heard, which is silent, and another is not; " in note
    assert line.startswith("saw nothing: a sound file; heard 0.0-1.0")


def test_a_cut_mp3_is_refused_and_a_cut_ogg_is_told(ask: Ask, tmp_path: Path) -> None:
    song = cut(film(tmp_path / "song.mp3", 0, 3.0, audio="libmp3lame"), 0.6)
    refused(ask(song), "song.mp3: says it has ", "it was cut, get the file again")
    radio = cut(film(tmp_path / "radio.ogg", 0, 3.0, rate=48000, audio="libopus"), 0.6)
    note, line = ask(radio).stderr.splitlines()
    assert "radio.ogg: its last page is missing, so it may be cut" in note
    assert line.startswith("saw nothing: a sound file; heard 0.0-")


def test_a_protected_film_is_refused(ask: Ask, tmp_path: Path) -> None:
    path = film(tmp_path / "film.mp4")
    path.write_bytes(path.read_bytes().replace(b"mp4a", b"drms", 1))
    refused(ask(path), "film.mp4: is copy-protected (DRM) and cannot be read; ")


def test_ten_milliseconds_of_sound_are_refused_and_three_tenths_are_heard(ask: Ask, tmp_path: Path) -> None:
    click = film(tmp_path / "click.wav", 0, 0.01, audio="pcm_s16le")
    refused(ask(click), "click.wav: 10 ms of sound are less than one analysis window of 25 ms; use a longer")
    line = answered(ask(film(tmp_path / "short.wav", 0, 0.3, audio="pcm_s16le")))
    assert line.startswith("saw nothing: a sound file; heard 0.0-0.3")


def test_surround_sound_without_pictures_is_heard(ask: Ask, tmp_path: Path) -> None:
    path = film(tmp_path / "cinema.m4a", 0, 1.0, rate=48000, layout="5.1")
    assert answered(ask(path)).startswith("saw nothing: a sound file; heard 0.0-1.0")


def test_sound_alone_without_sound_leaves_nothing_to_ask_about(ask: Ask, tmp_path: Path) -> None:
    path = film(tmp_path / "song.m4a", 0)
    refused(ask(path, "--no-audio"), "song.m4a: it has only sound and sound was switched off")


def test_one_picture_without_sound_is_seen(ask: Ask, tmp_path: Path) -> None:
    line = answered(ask(film(tmp_path / "one.mp4", 1, 0.0)))
    assert line == "saw 1 frame at 0.0 s; heard nothing: the clip has no audio track"


def test_pictures_at_a_variable_rate_are_named_by_their_own_times(ask: Ask, tmp_path: Path) -> None:
    ticks = [0, 100, 150, 400, 1000, 1033, 1900, 2500]
    path = film(tmp_path / "uneven.mkv", 8, 0.0, ticks=ticks)
    done = ask(path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_allclose(json.loads(done.stdout)["frame_times"], np.array(ticks) / 1000, atol=2e-3)


def test_a_cut_wav_and_a_moving_webp_are_refused(ask: Ask, tmp_path: Path) -> None:
    path = cut(film(tmp_path / "talk.wav", 0, audio="pcm_s16le"), 0.5)
    refused(ask(path), "talk.wav: says it has ", "it was cut, get the file again")
    moving = tmp_path / "moving.webp"
    frames = [Image.new("RGB", (32, 32), (60 * number, 0, 0)) for number in range(3)]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    refused(ask(moving), "moving.webp: is a moving WEBP picture, which cannot be read; save it as GIF or MP4")
