"""What near-duplicate pictures cost and save: features and embeds against the score of `runtime/change.py`.

    python tests/bench/bench_duplicates.py CLIP... [--model BUNDLE] [--fps 8] [--frames 24] [--static 3600]

The first table pairs pictures of one clip up to five steps apart: how far their features and the embeds of each alone
lie from each other, relative to their length, by the score. Below it, the same of pictures of different clips, and how
many pictures of each clip would not be encoded. --static indexes drawn slides that change every ten minutes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from vllama.runtime import Engine
from vllama.runtime.cache.catalogue import list_entries
from vllama.runtime.change import STILL, Glance
from vllama.runtime.media import probe, read_frames
from vllama.runtime.types import Float32, Frame

_EDGES = (0.0, 1.0, 2.0, 3.0, 4.0, STILL, 6.0, 8.0, 12.0, 20.0, 256.0)
_STEPS = 5  # apart, at most
_SLIDE_SECONDS = 600
_NOISE = 2.0  # of 255, that a camera puts over the slides
_SIZE = (320, 240)
_RATE = 2  # pictures per second of the slides


@dataclass(frozen=True)
class Seen:
    """A picture: how it looks, and what the encoders make of it."""

    glance: Glance
    features: Float32
    embeds: Float32


def main() -> None:
    """Encode, pair, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--fps", type=float, default=8.0, help="pictures per second that are paired")
    parser.add_argument("--frames", type=int, default=24, help="of each clip")
    parser.add_argument("--static", type=int, default=0, help="seconds of slides")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VLLAMA_CACHE"] = folder
        with Engine.open(given.model, threads=given.threads, answers=False) as engine:
            print(f"{engine.bundle.manifest.model}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}", flush=True)
            if given.clips:
                films = [seen(engine, clip, given.fps, given.frames) for clip in given.clips]
                table(films)
                for clip in given.clips:
                    savings(clip, engine.spec.video.image_size)
            if given.static:
                static(engine, Path(folder) / "slides.mp4", given.static)


def grid(clip: Path, fps: float, size: int) -> list[Frame]:
    """The pictures of a clip at a rate, in the encoder's size."""
    info = probe(clip)
    moments = np.arange(0.0, info.duration, 1.0 / fps)
    wanted = sorted({int(i) for i in np.searchsorted(info.frame_times, moments + 1e-6, "right") - 1 if i >= 0})
    return list(read_frames(info, wanted, size))


def seen(engine: Engine, clip: Path, fps: float, count: int) -> list[Seen]:
    """The first pictures of a clip, encoded."""
    encoders, found = engine.encoders, []
    for frame in grid(clip, fps, engine.spec.video.image_size)[:count]:
        features = encoders.frame_features([frame])[0]
        found.append(Seen(Glance(frame.pixels), features, encoders.video_embeds(features[None]).data))
    return found


def table(films: list[list[Seen]]) -> None:
    """Distances by score."""
    near = [(a, b) for film in films for i, a in enumerate(film) for b in film[i + 1 : i + 1 + _STEPS]]
    scores = np.array([a.glance.change(b.glance) for a, b in near])
    off = np.array([(distance(a.features, b.features), distance(a.embeds, b.embeds)) for a, b in near])
    print(f"{'score':>12} {'pairs':>6} {'features':>9} {'90 %':>7} {'most':>7} {'embeds':>9} {'90 %':>7} {'most':>7}")
    for low, high in pairwise(_EDGES):
        row(f"{low:g} to {high:g}", off[(scores >= low) & (scores < high)])
    others = [(a, b) for one, two in pairwise(films) for a, b in zip(one, two, strict=False)]
    row("other clips", np.array([(distance(a.features, b.features), distance(a.embeds, b.embeds)) for a, b in others]))


def distance(a: Float32, b: Float32) -> float:
    """Relative to the length of the first."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def row(what: str, off: NDArray[np.float64]) -> None:
    """Medians, upper tenths and maxima of features and of embeds."""
    if len(off):
        values = [value for column in off.T for value in (np.median(column), np.quantile(column, 0.9), column.max())]
        cells = " ".join(f"{value:>{width}.3f}" for value, width in zip(values, (9, 7, 7, 9, 7, 7), strict=True))
        print(f"{what:>12} {len(off):>6} {cells}", flush=True)


def savings(clip: Path, size: int) -> None:
    """How many pictures show nothing new, at one and at four a second."""
    for fps in (1.0, 4.0):
        glances = [Glance(frame.pixels) for frame in grid(clip, fps, size)]
        known, still = glances[0], 0
        for glance in glances[1:]:
            still += glance.change(known) < STILL
            known = known if glance.change(known) < STILL else glance
        print(f"{clip.name}: at {fps:g} a second {still} of {len(glances)} pictures show nothing new", flush=True)


def static(engine: Engine, path: Path, seconds: int) -> None:
    """A talk that is nothing but its slides."""
    slides(path, seconds)
    started = time.perf_counter()
    timeline = engine.index(path, fps=1.0)
    took = time.perf_counter() - started
    (entry,) = list_entries()
    count = -(-seconds // _SLIDE_SECONDS)
    print(f"{seconds} s of {count} slides: {timeline.frame_count} frames, {timeline.encoded} encoded, ", end="")
    print(f"{timeline.shared} as before; {entry.bytes / 1e6:.2f} MB, {took:.1f} s")


def slides(path: Path, seconds: int) -> None:
    """Drawn pages as a camera films them: with its noise."""
    random = np.random.default_rng(0)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", _RATE, options={"crf": "26", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *_SIZE, "yuv420p"
        for number in range(seconds * _RATE):
            if number % (_SLIDE_SECONDS * _RATE) == 0:
                page = drawn(random)
            noisy = np.clip(page + random.normal(0.0, _NOISE, page.shape).astype(np.float32), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, "rgb24")))
        container.mux(stream.encode())


def drawn(random: np.random.Generator) -> NDArray[np.float32]:
    """A page: a headline and lines of words."""
    width, height = _SIZE
    page = np.full((height, width, 3), 235, np.float32)
    page[10:34, 20 : int(random.integers(120, 300))] = random.integers(0, 160, 3)
    for top in range(50, height - 20, 14):
        left = 20
        while left < width - 60:
            word = int(random.integers(10, 50))
            page[top : top + 7, left : left + word] = 60
            left += word + 6
    return page


if __name__ == "__main__":
    main()
