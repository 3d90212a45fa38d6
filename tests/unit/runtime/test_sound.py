from __future__ import annotations

import subprocess
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from vllama.runtime.errors import MediaError
from vllama.runtime.media import probe
from vllama.runtime.sound import count_samples, read_samples


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
