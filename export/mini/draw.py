"""World to pixels: signed-distance shapes over varied backgrounds, for whole batches of pictures at once.

One painter serves training (56 x 56, thousands of pictures) and rendering (any size), so that what the encoder learns
is what a file shows. A picture is a sampling grid over a frame of some aspect: circles are round in the frame, not in
the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from .world import COLOURS, SHAPES

# Hue (degrees), saturation and value from - to. Wide, since every maker of clips has an own idea of "green".
_HUES = {
    "red": (-14, 9, 0.72, 1.0, 0.65, 1.0),
    "orange": (21, 40, 0.78, 1.0, 0.82, 1.0),
    "yellow": (48, 64, 0.68, 1.0, 0.82, 1.0),
    "green": (90, 150, 0.62, 1.0, 0.48, 1.0),
    "cyan": (171, 194, 0.62, 1.0, 0.62, 1.0),
    "blue": (207, 248, 0.68, 1.0, 0.58, 1.0),
    "purple": (266, 306, 0.55, 1.0, 0.5, 1.0),
    "white": (0, 360, 0.0, 0.07, 0.82, 1.0),
}
# Size at radius 1, and the free proportion: star inner radius, cross arm half width.
_SCALES = {
    "circle": (0.9, 1.0),
    "square": (0.74, 1.0),
    "triangle": (0.95, 1.25),
    "star": (1.0, 1.25),
    "cross": (0.9, 1.1),
}
_STAR_INNER, _CROSS_ARM = (0.34, 0.54), (0.22, 0.4)
SYMMETRY = (0, 4, 3, 5, 4)  # turns that leave a shape as it was, in the order of SHAPES; 0: all


@dataclass(frozen=True)
class Things:
    """k things in each of n pictures: shape and colour are indices (n, k), the rest float32 (n, k).

    x, y: fractions of width and height; radius: of the shorter side; visible: 0 or 1. Later things cover earlier ones.
    """

    shape: Tensor
    colour: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    angle: Tensor
    visible: Tensor


@dataclass(frozen=True)
class Style:
    """What no question asks about, for n pictures: all float32 with n in front.

    palette (n, 8, 3); scale (n, 5); star, cross: proportions (n,); shade: brightness slope in a shape (n,);
    base (n, 3), slope (n, 2, 3), texture (n, 1, 8, 8), stripes (n, 4: amplitude, frequency x and y, phase), vignette
    (n,): the background; soft: edge width in 1/56 of the shorter side (n,).
    """

    palette: Tensor
    scale: Tensor
    star: Tensor
    cross: Tensor
    shade: Tensor
    base: Tensor
    slope: Tensor
    texture: Tensor
    stripes: Tensor
    vignette: Tensor
    soft: Tensor

    def __getitem__(self, index: Tensor | slice) -> Style:
        return Style(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def repeat(self, times: int) -> Style:
        """Every picture's style `times` times in a row."""
        return Style(**{field.name: getattr(self, field.name).repeat_interleave(times, 0) for field in fields(self)})


def uniform(generator: torch.Generator, low: float | Tensor, high: float | Tensor, *shape: int) -> Tensor:
    """float32 `shape` between low and high."""
    return low + (high - low) * torch.rand(*shape, generator=generator)


def sometimes(generator: torch.Generator, chance: float, *shape: int) -> Tensor:
    """1.0 with that chance, else 0.0."""
    return (torch.rand(*shape, generator=generator) < chance).float()


def random_style(n: int, generator: torch.Generator) -> Style:
    """n looks, from flat grey to a tinted gradient with texture; luminance of the background at most about 0.5."""
    limits = torch.tensor([_HUES[colour] for colour in COLOURS])
    hsv = [uniform(generator, limits[:, i], limits[:, i + 1], n, len(COLOURS)) for i in (0, 2, 4)]
    scales = torch.tensor([_SCALES[shape] for shape in SHAPES])
    tint = uniform(generator, -1, 1, n, 3) * (0.3 * torch.rand(n, 1, generator=generator) ** 2)
    base = uniform(generator, 0.02, 0.42, n, 1) * (1 + tint)
    slope = uniform(generator, -0.16, 0.16, n, 2, 1) * (1 + uniform(generator, -0.3, 0.3, n, 2, 3))
    return Style(
        palette=_rgb(*hsv),
        scale=uniform(generator, scales[:, 0], scales[:, 1], n, len(SHAPES)),
        star=uniform(generator, *_STAR_INNER, n),
        cross=uniform(generator, *_CROSS_ARM, n),
        shade=uniform(generator, -0.2, 0.2, n) * sometimes(generator, 0.4, n),
        base=base,
        slope=slope * sometimes(generator, 0.6, n, 1, 1),
        texture=0.09 * torch.rand(n, 1, 1, 1, generator=generator) ** 2 * torch.randn(n, 1, 8, 8, generator=generator)
        * sometimes(generator, 0.6, n, 1, 1, 1),
        stripes=torch.cat(
            (
                uniform(generator, 0.0, 0.06, n, 1) * sometimes(generator, 0.25, n, 1),
                uniform(generator, -30, 30, n, 2),
                uniform(generator, 0, 2 * math.pi, n, 1),
            ),
            1,
        ),
        vignette=uniform(generator, -0.25, 0.1, n) * sometimes(generator, 0.4, n),
        soft=uniform(generator, 0.7, 2.0, n),
    )  # fmt: skip


def background(style: Style, height: int, width: int) -> Tensor:
    """The backgrounds alone: float32 (n, 3, height, width), 0 to 1."""
    y, x = _grid(height, width)
    field = style.slope[:, 0, :, None, None] * (x - 0.5) + style.slope[:, 1, :, None, None] * (y - 0.5)
    picture = style.base[:, :, None, None] + field
    picture = picture + functional.interpolate(style.texture, (height, width), mode="bilinear", align_corners=False)
    amplitude, fx, fy, phase = (style.stripes[:, i, None, None, None] for i in range(4))
    picture = picture + amplitude * torch.sin(fx * x + fy * y + phase)
    far = 4 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    return (picture * (1 + style.vignette[:, None, None, None] * far)).clamp(0.0, 0.62)


def paint(things: Things, style: Style, aspect: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pictures of things.

    Args:
        aspect: width over height of each frame (n,); the grid height x width samples it whatever its own shape.

    Returns:
        float32 (n, 3, height, width), 0 to 1; and how much of each pixel each thing is (n, k, height, width).
    """
    k = things.x.shape[1]
    y, x = _grid(height, width)
    short = torch.stack((aspect.clamp(min=1.0), (1 / aspect).clamp(min=1.0)))[..., None, None, None]  # width, height
    dx = (x - things.x[..., None, None]) * short[0]
    dy = (y - things.y[..., None, None]) * short[1]
    cos, sin = torch.cos(things.angle)[..., None, None], torch.sin(things.angle)[..., None, None]
    size = (things.radius * style.scale.gather(1, things.shape))[..., None, None]
    u, v = (cos * dx + sin * dy) / size, (cos * dy - sin * dx) / size
    distance = _distance(u.flatten(0, 1), v.flatten(0, 1), things.shape.flatten(), style, k).view_as(u) * size
    soft = style.soft[:, None, None, None] / 56
    alpha = (0.5 - distance / soft).clamp(0.0, 1.0) * things.visible[..., None, None]
    rgb = style.palette.gather(1, things.colour[..., None].expand(-1, -1, 3))
    lit = 1 + style.shade[:, None, None, None] * v.clamp(-1, 1)
    picture = background(style, height, width)
    for i in range(k):
        picture = picture + alpha[:, i, None] * (rgb[:, i, :, None, None] * lit[:, i, None] - picture)
    seen = [alpha[:, i] * (1 - alpha[:, i + 1 :]).prod(1) for i in range(k)]
    return picture.clamp(0.0, 1.0), torch.stack(seen, 1) if seen else alpha


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    return (torch.arange(height)[:, None] + 0.5) / height, (torch.arange(width)[None] + 0.5) / width


def _distance(u: Tensor, v: Tensor, shape: Tensor, style: Style, k: int) -> Tensor:
    """Signed distance (m, h, w) to shapes of size 1, negative inside."""
    out = torch.empty_like(u)
    for index, name in enumerate(SHAPES):
        rows = (shape == index).nonzero()[:, 0]
        if not len(rows):
            continue
        x, y = u[rows], v[rows]
        if name == "circle":
            d = torch.hypot(x, y) - 1
        elif name == "square":
            d = torch.maximum(x.abs(), y.abs()) - 1
        elif name == "triangle":  # equilateral, a corner up
            d = torch.maximum(y, math.sqrt(0.75) * x.abs() - 0.5 * y) - 0.5
        elif name == "star":
            inner = style.star[rows // k, None, None]
            fold = 2 * math.pi / 5
            turn = torch.atan2(x, -y)
            turn = (turn - fold * torch.round(turn / fold)).abs()
            r = torch.hypot(x, y)
            ny, nx = 1 - inner * math.cos(fold / 2), inner * math.sin(fold / 2)
            d = (nx * (r * torch.cos(turn) - 1) + ny * r * torch.sin(turn)) / torch.hypot(nx, ny)
        else:
            arm = style.cross[rows // k, None, None]
            x, y = x.abs(), y.abs()
            d = torch.minimum(torch.maximum(x - 1, y - arm), torch.maximum(x - arm, y - 1))
        out[rows] = d
    return out


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Hue in degrees, the others 0 to 1 -> (..., 3)."""
    channels = []
    for offset in (5, 3, 1):
        k = (offset + hue / 60) % 6
        channels.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, -1)
