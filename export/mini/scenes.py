"""Random single pictures with everything the image encoder has to know about them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .camera import film
from .draw import SYMMETRY, Things, paint, random_style, sometimes, uniform
from .world import COLOURS, SHAPES

SIDE, PATCH = 56, 8
_ASPECT = 0.65  # exp(+-this) spans 9:16 to 16:9
_THINGS = 3


@dataclass(frozen=True)
class Scenes:
    """n pictures and their labels.

    pixels: (n, 3, 56, 56), 0 to 1. shape, colour: of each thing, indices (n, 3). present: 1 seen, 0 not, -1 hardly
    (n, 3). place: x, y, log radius (n, 3, 3). turn: cos, sin of the angle times the shape's symmetry (n, 3, 2).
    patch_colour (n, 9, 7, 7), patch_shape (n, 6, 7, 7): what covers each patch, background last. foreign: 0 or 1 (n,).
    """

    pixels: Tensor
    shape: Tensor
    colour: Tensor
    present: Tensor
    place: Tensor
    turn: Tensor
    patch_colour: Tensor
    patch_shape: Tensor
    foreign: Tensor


def random_things(n: int, generator: torch.Generator, single: float) -> Things:
    """Up to three things each, all colours and all shapes of a picture different; single: share with exactly one."""
    colour = torch.rand(n, len(COLOURS), generator=generator).argsort(1)[:, :_THINGS]
    shape = torch.rand(n, len(SHAPES), generator=generator).argsort(1)[:, :_THINGS]
    count = torch.multinomial(torch.tensor([0.06, 0.24, 0.35, 0.35]), n, replacement=True, generator=generator)
    count = torch.where(torch.rand(n, generator=generator) < single, torch.ones_like(count), count)
    upright = sometimes(generator, 0.5, n, _THINGS)
    return Things(
        shape=shape,
        colour=colour,
        x=uniform(generator, 0.03, 0.97, n, _THINGS),
        y=uniform(generator, 0.03, 0.97, n, _THINGS),
        radius=torch.exp(uniform(generator, math.log(0.07), math.log(0.3), n, _THINGS)),
        angle=uniform(generator, -math.pi, math.pi, n, _THINGS) * (1 - upright)
        + upright * uniform(generator, -0.12, 0.12, n, _THINGS),
        visible=(torch.arange(_THINGS)[None] < count[:, None]).float(),
    )


def random_aspect(n: int, generator: torch.Generator) -> Tensor:
    """Width over height of n frames, (n,): the usual formats, and anything between 9:16 and 16:9."""
    usual = torch.tensor([16 / 9, 4 / 3, 1.0, 9 / 16])[torch.randint(4, (n,), generator=generator)]
    other = torch.exp(uniform(generator, -_ASPECT, _ASPECT, n))
    return torch.where(torch.rand(n, generator=generator) < 0.6, usual, other)


def random_scenes(n: int, generator: torch.Generator, single: float, foreign: Tensor | None = None) -> Scenes:
    """n labelled pictures; the last ones are `foreign` (m, 3, 56, 56), 0 to 1, m < n, without things."""
    things, aspect = random_things(n, generator, single), random_aspect(n, generator)
    pixels, alpha = paint(things, random_style(n, generator), aspect, SIDE, SIDE)
    strangers = torch.zeros(n)
    if foreign is not None and len(foreign):
        strangers[-len(foreign) :] = 1
        pixels[-len(foreign) :] = foreign
        alpha[-len(foreign) :] = 0
    seen = alpha.sum((2, 3)) / _whole_area(things, aspect)
    present = torch.where(seen > 0.4, 1.0, torch.where(seen > 0.12, -1.0, 0.0))
    cells = functional.avg_pool2d(alpha, PATCH)  # (n, 3, 7, 7)
    order = torch.tensor(SYMMETRY)[things.shape]
    return Scenes(
        film(pixels, generator),
        things.shape,
        things.colour,
        present,
        torch.stack((things.x, things.y, things.radius.log()), -1),
        torch.stack((torch.cos(order * things.angle), torch.sin(order * things.angle)), -1),
        _cover(cells, things.colour, len(COLOURS)),
        _cover(cells, things.shape, len(SHAPES)),
        strangers,
    )


def _whole_area(things: Things, aspect: Tensor) -> Tensor:
    """About how many of the 56 x 56 pixels a thing would cover alone and whole (n, k)."""
    fill = torch.tensor([2.8, 3.0, 1.55, 1.3, 2.1])[things.shape]
    return fill * (things.radius * SIDE) ** 2 * torch.minimum(aspect, 1 / aspect)[:, None]


def _cover(cells: Tensor, label: Tensor, classes: int) -> Tensor:
    out = torch.zeros(len(cells), classes + 1, *cells.shape[2:])
    out.scatter_add_(1, label[..., None, None].expand_as(cells), cells)
    out[:, -1] = (1 - out[:, :-1].sum(1)).clamp(min=0)
    return out
