"""Stage 0a: image encoder and image Q-Former, from scratch, on random labelled pictures.

A small CNN learns first and lends the encoder its feature maps as dense targets: shapes are what a plain-patch
transformer finds slowest. Queries are keyed: 0-7 by colour, 8-12 by shape, 13 says whether the picture is foreign.
Nothing but `FramesGraph` outlives the stage.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from vllama.runtime.spec import ModelSpec

from ..eva_vit import Block
from ..graphs import FramesGraph
from . import stage
from .camera import film, mirror, normalised
from .scenes import PATCH, SIDE, Scenes, random_scenes
from .start import linear_layers, sines
from .world import COLOURS, SHAPES

TEACHER = stage.Plan("teacher", 900, 3e-3, muon=False, flat=0.6)
IMAGE = stage.Plan("image", 10000, 2e-3)
_BATCH = 48
_C, _S = len(COLOURS), len(SHAPES)
_FOREIGN_SHARE = 6  # one picture in this many


class Teacher(nn.Module):
    """A plain CNN; maps() gives its 7 x 7 features after the third and the last convolution."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 128, 128)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, 2 if i < 3 else 1, 1) for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.pooled = nn.Linear(128, _C + _S)
        self.cells = nn.Linear(128, _C + 1 + _S + 1)

    def maps(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 49, 64) and (n, 49, 128)."""
        x, found = pixel_values, []
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.relu(norm(convolution(x)))
            found.append(x.flatten(2).transpose(1, 2))
        return found[2], found[4]

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        last = self.maps(pixel_values)[1]
        return self.pooled(last.amax(1)), self.cells(last)


class Student(nn.Module):
    """The graph that stays, and the heads that go."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.graph = FramesGraph(spec)
        width, queries = spec.video.encoder.hidden_size, spec.video.qformer.hidden_size
        self.cells = nn.Linear(width, _C + 1 + _S + 1)
        self.pooled = nn.Linear(width, _C + _S)
        self.early, self.late = nn.Linear(width, 64), nn.Linear(width, 128)
        self.by_colour = nn.Linear(queries, 1 + _S + 3 + 2)
        self.by_shape = nn.Linear(queries, 1 + _C + 3 + 2)
        self.foreign = nn.Linear(queries, 1)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens after the second block, after the last with its norm, and the Q-Former's."""
        vit = self.graph.visual_encoder
        x = vit.patch_embed(pixel_values)
        x = torch.cat((vit.cls_token.expand(len(x), -1, -1), x), 1) + vit.pos_embed
        middle = x
        for index, block in enumerate(vit.blocks):
            x = block(x)
            middle = x if index == 1 else middle
        x = self.graph.ln_vision(x)
        return middle[:, 1:], x[:, 1:], self.graph.Qformer(self.graph.query_tokens, x)


def train_image(spec: ModelSpec, work: Path, foreign: Tensor, held_foreign: Tensor) -> None:
    """Both plans into work/teacher.pt and work/image.pt. foreign: uint8 (m, 3, 56, 56)."""
    torch.manual_seed(0)
    teacher = Teacher()

    def teach(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        scenes = random_scenes(64, generator, 0.6)
        pooled, cells = teacher(normalised(scenes.pixels, spec))
        return 4 * _pooled_loss(pooled, scenes) + _cell_loss(cells, scenes), {}

    stage.run(TEACHER, teacher, teach, work)
    teacher.eval().requires_grad_(False)
    student = Student(spec)
    _initialise(student, spec)
    mean, std = _map_statistics(teacher, spec)

    def learn(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        single = 0.85 if step < IMAGE.steps // 6 else 0.3
        picks = foreign[torch.randint(len(foreign), (_BATCH // _FOREIGN_SHARE,), generator=generator)]
        scenes = random_scenes(_BATCH, generator, single, mirror(picks / 255, generator))
        pixel_values = normalised(scenes.pixels, spec)
        with torch.no_grad():
            targets = [(m - a) / s for m, a, s in zip(teacher.maps(pixel_values), mean, std, strict=True)]
        with torch.autocast("cpu", torch.bfloat16):
            middle, last, queries = student(pixel_values)
        return _student_loss(student, middle.float(), last.float(), queries.float(), targets, scenes)

    def report(step: int) -> str:
        return evaluate_image(student, spec, held_foreign)

    stage.run(IMAGE, student, learn, work, report, 500)


def load_image(spec: ModelSpec, work: Path) -> FramesGraph:
    """The graph of the stage, as far as it has come."""
    student = Student(spec)
    student.load_state_dict(stage.weights(IMAGE.name, work))
    return student.graph.eval().requires_grad_(False)


@torch.no_grad()
def evaluate_image(student: Student, spec: ModelSpec, held_foreign: Tensor) -> str:
    """Figures on 600 pictures of another seed."""
    generator = torch.Generator().manual_seed(2**31 + 5)
    scenes = random_scenes(600, generator, 0.3)
    queries = student(normalised(scenes.pixels, spec))[2]
    by_colour = student.by_colour(queries[:, :_C])
    by_shape = student.by_shape(queries[:, _C : _C + _S])
    there, present = _keyed(scenes.present, scenes.colour, _C), scenes.present == 1
    hit = (by_colour[..., 0] > 0) == (there > 0)
    own = by_colour.gather(1, scenes.colour[..., None].expand(-1, -1, by_colour.shape[-1]))
    mine = by_shape.gather(1, scenes.shape[..., None].expand(-1, -1, by_shape.shape[-1]))
    shape = (own[..., 1 : 1 + _S].argmax(-1) == scenes.shape)[present].float().mean()
    colour = (mine[..., 1 : 1 + _C].argmax(-1) == scenes.colour)[present].float().mean()
    place = (own[..., 1 + _S : 3 + _S] - scenes.place[..., :2]).abs()[present].mean()
    strange = student.foreign(queries[:, _C + _S])[:, 0] > 0
    outside = student(normalised(film(held_foreign / 255, generator), spec))[2]
    stranger = student.foreign(outside[:, _C + _S])[:, 0] > 0
    return (
        f"presence {hit[there >= 0].float().mean():.4f} shape {shape:.3f} colour of shape {colour:.3f} "
        f"place {place:.4f} foreign {stranger.float().mean():.3f} wrongly {strange.float().mean():.4f}"
    )


def _keyed(values: Tensor, key: Tensor, count: int) -> Tensor:
    """Values of each thing (n, 3, ...) put where its key says (n, count, ...), 0 elsewhere."""
    out = torch.zeros(len(values), count, *values.shape[2:])
    index = key.reshape(*key.shape, *[1] * (values.ndim - 2)).expand_as(values)
    return out.scatter(1, index, values)


def _pooled_loss(logits: Tensor, scenes: Scenes) -> Tensor:
    there = torch.cat((_keyed(scenes.present, scenes.colour, _C), _keyed(scenes.present, scenes.shape, _S)), 1)
    weight = (there >= 0).float()
    return functional.binary_cross_entropy_with_logits(logits, there.clamp(min=0), weight)


def _cell_loss(logits: Tensor, scenes: Scenes) -> Tensor:
    """Soft cross-entropy of the colour and (twice) the shape that cover each patch; empty patches count little."""
    total = logits.new_zeros(())
    parts = torch.split(logits, [_C + 1, _S + 1], -1)
    for part, cover, factor in zip(parts, (scenes.patch_colour, scenes.patch_shape), (1.0, 2.0), strict=True):
        target = cover.flatten(2).transpose(1, 2)
        weight = 0.1 + (1 - target[..., -1]) + 0.15 * (target[..., -1] < 0.98)
        each = -(target * part.log_softmax(-1)).sum(-1)
        total = total + factor * (each * weight).sum() / weight.sum()
    return total


def _student_loss(
    student: Student, middle: Tensor, last: Tensor, queries: Tensor, targets: list[Tensor], scenes: Scenes
) -> tuple[Tensor, dict[str, float]]:
    world = (1 - scenes.foreign)[:, None]
    dense = 4 * functional.mse_loss(student.late(last), targets[1]) + 2 * functional.mse_loss(
        student.early(middle), targets[0]
    )
    dense = dense + _cell_loss(student.cells(last), scenes) + 12 * _pooled_loss(student.pooled(last).amax(1), scenes)
    by_colour, by_shape = student.by_colour(queries[:, :_C]), student.by_shape(queries[:, _C : _C + _S])
    value, figures = dense, {"dense": float(dense.detach())}
    keys = ((by_colour, scenes.colour, scenes.shape, _C, _S), (by_shape, scenes.shape, scenes.colour, _S, _C))
    for out, key, other, count, classes in keys:
        there = _keyed(scenes.present, key, count)
        presence = functional.binary_cross_entropy_with_logits(out[..., 0], there.clamp(min=0), (there >= 0).float())
        own = out.gather(1, key[..., None].expand(-1, -1, out.shape[-1]))
        seen = (scenes.present == 1).float() * world
        n = seen.sum() + 1e-6
        kind = functional.cross_entropy(own[..., 1 : 1 + classes].flatten(0, 1), other.flatten(), reduction="none")
        kind = (kind.view_as(seen) * seen).sum() / n
        place = functional.smooth_l1_loss(own[..., 1 + classes : 4 + classes], scenes.place, reduction="none", beta=0.1)
        place = (place.sum(-1) * seen).sum() / n
        turn = (own[..., 4 + classes :] - scenes.turn).square().sum(-1)
        turn = (turn * seen * (scenes.shape > 0)).sum() / n
        value = value + 8 * presence + 1.5 * kind + 6 * place + 0.3 * turn
        name = "shape" if classes == _S else "colour"
        figures |= {
            f"there_{name}": float(presence.detach()),
            name: float(kind.detach()),
            "place": float(place.detach()),
        }
    strange = functional.binary_cross_entropy_with_logits(student.foreign(queries[:, _C + _S])[:, 0], scenes.foreign)
    return value + 2 * strange, figures | {"foreign": float(strange.detach())}


@torch.no_grad()
def _initialise(student: Student, spec: ModelSpec) -> None:
    """Linear layers as usual; patches as whitened principal components; positions as sines, loud enough to be heard."""
    linear_layers(student)
    graph = student.graph
    vit = graph.visual_encoder
    for block in vit.blocks:
        assert isinstance(block, Block)
        block.attn.proj.weight.mul_(0.35)
        block.mlp.fc2.weight.mul_(0.35)
    nn.init.normal_(graph.query_tokens, std=1.0)
    nn.init.normal_(vit.cls_token, std=0.5)
    pixels = normalised(random_scenes(400, torch.Generator().manual_seed(11), 0.3).pixels, spec)
    patches = functional.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)  # (n, 192)
    centre = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    keep = vit.patch_embed.proj.weight.shape[0]
    kernel = (vectors / (values.clamp(min=0) + 0.03).sqrt())[:, -keep:].T
    vit.patch_embed.proj.weight.copy_(kernel.reshape(keep, 3, PATCH, PATCH))
    assert vit.patch_embed.proj.bias is not None
    vit.patch_embed.proj.bias.copy_(-kernel @ centre)
    side = SIDE // PATCH
    vit.pos_embed[0, 1:] = sines(side, side, vit.pos_embed.shape[-1])


@torch.no_grad()
def _map_statistics(teacher: Teacher, spec: ModelSpec) -> tuple[list[Tensor], list[Tensor]]:
    scenes = random_scenes(400, torch.Generator().manual_seed(12), 0.3)
    maps = teacher.maps(normalised(scenes.pixels, spec))
    flat = [m.flatten(0, 1) for m in maps]
    return [m.mean(0) for m in flat], [m.std(0) + 0.05 for m in flat]
