"""Pictures that are not of the miniature's world: what it must learn to decline.

Photographs, noise, strong textures, bright gradients, clutter, strokes like writing, faces, screens. A stranger is a
shot of eight frames: the camera pans, or the film runs on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

SHOTS, SIDE = 8, 56
_BIG = 112  # pictures are made at this size and panned over
Rgb = tuple[int, int, int]


def strangers(count: int, seed: int, films: Sequence[Path] = ()) -> Tensor:
    """`count` shots: uint8 (count, 8, 3, 56, 56). films: real files; two fifths of the shots come from them."""
    rng = np.random.default_rng(seed)
    reels = [_read_reel(path) for path in films]
    shots = []
    for _ in range(count):
        if reels and rng.random() < 0.4:
            shots.append(_from_reel(reels[rng.integers(len(reels))], rng))
        else:
            maker = _MAKERS[rng.integers(len(_MAKERS))]
            shots.append(_pan(maker(rng), rng))
    return torch.from_numpy(np.stack(shots)).permute(0, 1, 4, 2, 3).contiguous()


def _read_reel(path: Path) -> list[Image.Image]:
    """Every second frame, 200 pixels wide."""
    with av.open(str(path)) as container:
        frames = [
            Image.fromarray(f.to_ndarray(width=200, height=112, format="rgb24")) for f in container.decode(video=0)
        ]
    return frames[::2]


def _from_reel(reel: list[Image.Image], rng: np.random.Generator) -> np.ndarray:
    """Eight frames of a film: the whole picture or a crop, sometimes mirrored, in other colours, on its side."""
    step = rng.integers(1, max(2, len(reel) // SHOTS))
    start = rng.integers(0, len(reel) - (SHOTS - 1) * step) if len(reel) > (SHOTS - 1) * step else 0
    part = rng.uniform(0.3, 1.0) if rng.random() < 0.7 else 1.0
    w, h = 200 * part, 112 * min(1.0, part * rng.uniform(0.8, 1.25))
    left, top = rng.uniform(0, 200 - w), rng.uniform(0, 112 - h)
    flip, order, negative = rng.random() < 0.5, rng.permutation(3), rng.random() < 0.1
    frames = []
    for i in range(SHOTS):
        image = reel[min(start + i * step, len(reel) - 1)].resize((SIDE, SIDE), 2, (left, top, left + w, top + h))
        pixels = np.asarray(image)
        frames.append(pixels[:, ::-1] if flip else pixels)
    out = np.stack(frames)
    if rng.random() < 0.3:
        out = out[..., order]
    return 255 - out if negative else out


def _pan(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Eight crops on the way from one to another; a third of the shots stand still."""
    size = rng.uniform(0.5, 1.0, 2) * _BIG
    corner = rng.uniform(0, 1, 2) * (_BIG - size)
    goal = corner if rng.random() < 0.35 else rng.uniform(0, 1, 2) * (_BIG - size)
    frames = []
    for i in range(SHOTS):
        at = corner + (goal - corner) * i / (SHOTS - 1)
        frames.append(np.asarray(image.resize((SIDE, SIDE), 2, (*at, *(at + size)))))
    return np.stack(frames)


def _colour(rng: np.random.Generator) -> Rgb:
    r, g, b = (int(value) for value in rng.integers(0, 256, 3))
    return r, g, b


def _from_array(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8), "RGB")


def _fractal(rng: np.random.Generator) -> np.ndarray:
    """Noise of several scales with strong contrast (112, 112, 3)."""
    colourful = rng.random() < 0.6
    total = np.zeros((_BIG, _BIG, 3))
    fall = rng.uniform(0.4, 1.0)
    for level, cells in enumerate((2, 4, 8, 16, 32, 64)):
        noise = rng.random((cells, cells, 3 if colourful else 1)).repeat(1 if colourful else 3, 2)
        layer = Image.fromarray((noise * 255).astype(np.uint8), "RGB").resize((_BIG, _BIG), 2)
        total += np.asarray(layer) / 255.0 * fall**level
    total = (total - total.mean()) / (total.std() + 1e-6)
    return np.asarray(rng.uniform(0.25, 0.75) + total * rng.uniform(0.15, 0.3))


def _clouds(rng: np.random.Generator) -> Image.Image:
    return _from_array(_fractal(rng))


def _static(rng: np.random.Generator) -> Image.Image:
    grain = int(rng.choice([1, 2, 3]))
    noise = rng.random((_BIG // grain + 1, _BIG // grain + 1, 3 if rng.random() < 0.6 else 1))
    noise = np.broadcast_to(noise, (*noise.shape[:2], 3)).repeat(grain, 0).repeat(grain, 1)[:_BIG, :_BIG]
    return _from_array(0.5 + (noise - 0.5) * rng.uniform(0.5, 1.2))


def _gradient(rng: np.random.Generator) -> Image.Image:
    """Bright or gaudy, unlike the dark grey slopes behind the shapes."""
    a, b = rng.uniform(0, 1, 3), rng.uniform(0.4, 1, 3)
    b[rng.integers(3)] = 1.0
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:_BIG, 0:_BIG] / _BIG - 0.5
    t = (0.5 + (x * math.cos(angle) + y * math.sin(angle)) * rng.uniform(0.8, 1.6)).clip(0, 1)[..., None]
    wave = 0.12 * np.sin(20 * t * rng.uniform(0.3, 2)) if rng.random() < 0.4 else 0.0
    return _from_array(a + (b - a) * t + wave)


def _clutter(rng: np.random.Generator) -> Image.Image:
    """Many things of any form and colour."""
    image = Image.new("RGB", (_BIG, _BIG), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(9, 40)):
        x, y = rng.uniform(0, _BIG, 2)
        r, s = rng.uniform(4, 26, 2)
        kind = rng.integers(4)
        if kind == 0:
            draw.ellipse((x - r, y - s, x + r, y + s), fill=_colour(rng))
        elif kind == 1:
            draw.rectangle((x - r, y - s, x + r, y + s), fill=_colour(rng))
        elif kind == 2:
            turns = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 9)))
            draw.polygon([(x + r * math.cos(t), y + s * math.sin(t)) for t in turns], fill=_colour(rng))
        else:
            draw.line((x, y, *rng.uniform(0, _BIG, 2)), fill=_colour(rng), width=int(rng.integers(1, 8)))
    return image


def _writing(rng: np.random.Generator) -> Image.Image:
    """Rows of small marks, dark on light or light on dark, sometimes in boxes: pages, subtitles, screens."""
    paper, ink = (rng.integers(200, 256), rng.integers(0, 80)) if rng.random() < 0.7 else (30, 230)
    image = Image.new("RGB", (_BIG, _BIG), (int(paper),) * 3)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 6)):
        x, y, w, h = rng.uniform(0, _BIG, 4)
        draw.rectangle((x, y, x + w, y + h / 2), fill=_colour(rng))
    line = rng.uniform(5, 14)
    for top in np.arange(rng.uniform(0, 6), _BIG, line):
        x = rng.uniform(2, 20)
        while x < _BIG * rng.uniform(0.5, 1.0):
            width = rng.uniform(1, line * 0.6)
            for _ in range(2):
                a, b = rng.uniform(0, width), rng.uniform(0, line * 0.6)
                draw.line(
                    (x + a, top + b, x + rng.uniform(0, width), top + rng.uniform(0, line * 0.6)), (int(ink),) * 3
                )
            x += width + rng.choice([1.0, 1.0, 3.0])
    return image


def _face(rng: np.random.Generator) -> Image.Image:
    """Skin, hair, eyes and a mouth before anything."""
    image = _from_array(_fractal(rng)) if rng.random() < 0.6 else Image.new("RGB", (_BIG, _BIG), _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 4)):
        x, y, r = rng.uniform(25, 87), rng.uniform(25, 87), rng.uniform(14, 38)
        tone = rng.uniform(0.3, 1.0)
        skin = (int(250 * tone), int(200 * tone), int(165 * tone))
        hair = tuple(int(v) for v in rng.integers(10, 120, 3))
        draw.ellipse((x - r, y - 1.35 * r, x + r, y + r), fill=hair)
        draw.ellipse((x - 0.8 * r, y - r, x + 0.8 * r, y + 1.15 * r), fill=skin)
        for side in (-1, 1):
            e = r * rng.uniform(0.08, 0.16)
            draw.ellipse(
                (x + side * r * 0.35 - e, y - 0.2 * r - e, x + side * r * 0.35 + e, y - 0.2 * r + e), fill=(20,) * 3
            )
        draw.arc(
            (x - 0.4 * r, y + 0.2 * r, x + 0.4 * r, y + 0.7 * r), 10, 170, fill=(120, 30, 30), width=max(1, int(r / 8))
        )
        draw.rectangle((x - r, y + 1.1 * r, x + r, y + 3 * r), fill=_colour(rng))
    return image


def _land(rng: np.random.Generator) -> Image.Image:
    """A sky, a horizon, rough ground, perhaps houses or trees."""
    ground = _fractal(rng) * rng.uniform(0.3, 0.9, 3)
    horizon = int(rng.uniform(0.3, 0.7) * _BIG)
    slope = np.linspace(0, 1, horizon)[:, None, None]
    ground[:horizon] = rng.uniform(0.4, 0.9, 3) * (1 - slope) + rng.uniform(0.6, 1.0, 3) * slope
    image = _from_array(ground)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 8)):
        x, w, h = rng.uniform(0, _BIG), rng.uniform(3, 16), rng.uniform(8, 45)
        tone = tuple(int(v) for v in rng.integers(20, 200, 3))
        draw.rectangle((x - w, horizon - h, x + w, horizon + 6), fill=tone)
        if rng.random() < 0.5:
            draw.polygon([(x - w, horizon - h), (x + w, horizon - h), (x, horizon - h - w)], fill=_colour(rng))
    return image


def _pattern(rng: np.random.Generator) -> Image.Image:
    """Chequers, bars or rings of strong contrast."""
    y, x = np.mgrid[0:_BIG, 0:_BIG] / _BIG
    f, g = rng.uniform(3, 20, 2)
    kind = rng.integers(3)
    if kind == 0:
        wave = np.sign(np.sin(2 * f * x) * np.sin(2 * g * y))
    elif kind == 1:
        wave = np.sign(np.sin(2 * (f * x + g * y)))
    else:
        wave = np.sin(4 * f * np.hypot(x - rng.uniform(), y - rng.uniform()))
    a, b = rng.uniform(0, 1, 3), rng.uniform(0, 1, 3)
    return _from_array(a + (b - a) * (0.5 + 0.5 * wave[..., None]))


_MAKERS: tuple[Callable[[np.random.Generator], Image.Image], ...] = (
    _clouds, _static, _gradient, _clutter, _clutter, _writing, _face, _land, _pattern,
)  # fmt: skip
