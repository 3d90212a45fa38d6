from __future__ import annotations

import struct
import subprocess
import sys
import wave
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest

from vllama.runtime import sound
from vllama.runtime.errors import MediaError
from vllama.runtime.media import probe
from vllama.runtime.resample import Resampler
from vllama.runtime.sound import count_samples, read_samples, read_sound
from vllama.runtime.types import Float32


def write(path: Path, seconds: float, rate: int, channels: int = 1) -> Path:
    """Noise in 16 bits."""
    noise = np.random.default_rng(0).integers(-20000, 20000, (round(seconds * rate), channels), np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(noise.tobytes())
    return path


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (16000, 2), (44100, 2), (48000, 6)])
def test_stretches_of_sound_are_slices_of_the_whole(rate: int, channels: int, tmp_path: Path) -> None:
    info = probe(write(tmp_path / "sound.wav", 3.0, rate, channels))
    count = count_samples(info, 16000)
    assert count == 48000
    (whole,) = read_samples(info, [(0, count)], 16000)
    assert (whole.start, whole.end, whole.data.shape) == (0.0, 3.0, (channels, count))
    bounds = [(0, 100), (50, 20000), (50, 20000), (19999, 20001), (30000, 47999), (40000, 48000)]
    parts = list(read_samples(info, bounds, 16000))
    for (first, last), part in zip(bounds, parts, strict=True):
        assert part.start == first / 16000
        np.testing.assert_array_equal(part.data, whole.data[:, first:last])


def encode(path: Path, codec: str, seconds: float, rate: int = 44100, gap: int = 0) -> Path:
    """Noise in one channel of two, and a tone in the other; so many samples are left out in the middle."""
    count = round(seconds * rate)
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, count)
    sound = np.stack([noise, np.sin(np.arange(count) / 20) / 2]).astype(np.float32)
    with av.open(path, "w") as container:
        stream = cast(av.AudioStream, container.add_stream(codec, rate, layout="stereo"))
        for first, last in ((0, count // 2), (count // 2, count)) if gap else ((0, count),):
            block = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:, first:last]), "fltp", "stereo")
            block.sample_rate, block.time_base, block.pts = rate, Fraction(1, rate), first + gap * (first > 0)
            container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return path


_KINDS = [
    ("a.mp4", "aac"), ("a.mov", "alac"), ("a.mkv", "aac"), ("a.mp3", "libmp3lame"), ("a.wav", "pcm_s16le"),
    ("a.flac", "flac"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "codec"), _KINDS)
@pytest.mark.parametrize("rate", [44100, 48000])
def test_stretches_far_apart_are_those_of_the_whole_bit_for_bit(
    name: str, codec: str, rate: int, tmp_path: Path
) -> None:
    info = probe(encode(tmp_path / name, codec, 12.0, rate))
    count = count_samples(info, 16000)
    (whole,) = read_samples(info, [(0, count)], 16000)
    assert whole.data.shape == (2, count)
    bounds = [(0, 3000), (40000, 50000), (49000, 52001), (130000, 140000), (count - 500, count)]
    for (first, last), part in zip(bounds, read_samples(info, bounds, 16000), strict=True):
        np.testing.assert_array_equal(part.data, whole.data[:, first:last], err_msg=str(first))
    (part,) = read_samples(info, [(100001, 101000)], 16000)
    np.testing.assert_array_equal(part.data, whole.data[:, 100001:101000])


def test_what_no_stretch_needs_is_not_resampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed = list[int]()
    push = Resampler.push

    def counted(self: Resampler, samples: Float32) -> Float32:
        pushed.append(samples.shape[1])
        return push(self, samples)

    monkeypatch.setattr(Resampler, "push", counted)
    info = probe(write(tmp_path / "long.wav", 60.0, 44100))
    list(read_samples(info, [(0, 16000), (480000, 496000)], 16000))
    assert 2.0 <= sum(pushed) / 44100 < 2.6


@pytest.mark.parametrize(("name", "codec"), _KINDS)
@pytest.mark.parametrize(("seconds", "gap"), [(0.01, 0), (0.5, 0), (3.0, 0), (3.0, 2000), (3.0, 20000)])
def test_samples_that_are_counted_are_those_that_are_decoded(
    name: str, codec: str, seconds: float, gap: int, tmp_path: Path
) -> None:
    """A short gap is no silence, a long one is."""
    info = probe(encode(tmp_path / name, codec, seconds, gap=gap))
    decoded = sum(block.data.shape[1] for block in read_sound(info))
    assert count_samples(info, 44100) == decoded


def test_samples_of_an_mp4_are_counted_without_decoding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "book.m4a", "aac", 20.0)
    wanted = sum(block.data.shape[1] for block in read_sound(probe(path)))
    monkeypatch.setattr(sound, "read_blocks", None)
    assert count_samples(probe(path), 44100) == wanted
    elst = path.read_bytes().index(b"elst")  # 5 s from 1 s on: the clock begins there, and the packets go on
    content = bytearray(path.read_bytes())
    content[elst + 12 : elst + 20] = struct.pack(">Ii", 5000, 44100)
    path.write_bytes(content)
    info = probe(path)
    counted = count_samples(info, 44100)
    monkeypatch.undo()
    assert counted == sum(block.data.shape[1] for block in read_sound(info))
    assert counted / 44100 == pytest.approx(5.0, abs=0.05)


def test_samples_of_sound_that_starts_late_have_the_time_of_the_clip(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    with av.open(path, "w") as container:
        video = container.add_stream("mjpeg", 10)
        video.width, video.height, video.pix_fmt = 64, 64, "yuvj420p"
        audio = container.add_stream("pcm_s16le", 16000, layout="mono")
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), "rgb24")))
        block = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), "s16", "mono")
        block.sample_rate, block.pts = 16000, 16000
        container.mux(audio.encode(block))
    (part,) = read_samples(probe(path), [(4000, 8000)], 16000)
    assert part.start == pytest.approx(1.25, abs=2e-3)


def test_bounds_beyond_the_end_give_what_there_is(tmp_path: Path) -> None:
    info = probe(write(tmp_path / "short.wav", 0.3, 16000))
    assert count_samples(info, 16000) == 4800
    parts = list(read_samples(info, [(0, 32000)] * 8, 16000))
    assert [part.data.shape for part in parts] == [(1, 4800)] * 8


def test_an_empty_sound_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "empty.wav", 0.0, 16000)
    with pytest.raises(MediaError, match=r"empty.wav"):
        count_samples(probe(path), 16000)


_LISTEN = """
import resource, sys
from pathlib import Path
from vllama.runtime.fbank import clip_bounds
from vllama.runtime.media import probe
from vllama.runtime.sound import count_samples, read_samples
from vllama.runtime.registry import find_spec

def listen(path):
    info = probe(Path(path))
    count = count_samples(info, 16000)
    bounds = clip_bounds(count, find_spec("video-llama-2-7b-chat").audio)
    heard = sum(part.data.shape[1] for part in read_samples(info, bounds, 16000))
    return count, heard, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

short, long = listen(sys.argv[1]), listen(sys.argv[2])
print(*short[:2], *long[:2], long[2] - short[2])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the peak of a process is not told there")
def test_half_an_hour_of_sound_is_never_held_at_once(tmp_path: Path) -> None:
    rate, minutes = 8000, {"short.wav": 1, "lecture.wav": 30}
    for name, length in minutes.items():
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(1)
            file.setframerate(rate)
            for _ in range(length):
                file.writeframes(b"\x80" * (60 * rate))
    paths = [str(tmp_path / name) for name in minutes]
    done = subprocess.run([sys.executable, "-c", _LISTEN, *paths], capture_output=True, text=True, check=True)
    *counts, grown = map(int, done.stdout.split())
    assert counts == [60 * 16000, 8 * 32000, 1800 * 16000, 8 * 32000]  # the longer is 115 MB of float32
    assert grown * (1 if sys.platform == "darwin" else 1024) < 20e6, grown
