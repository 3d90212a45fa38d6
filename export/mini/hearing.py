"""Stage 0b: the audio encoder, from scratch, on random labelled pieces of two seconds.

Linear heads read kind, number of beeps, where a sound begins and ends and whether the piece is foreign from the vector
that the encoder gives, so all of that stands in it. Only `ClipsGraph` outlives the stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vllama.runtime.spec import AudioSpec, ModelSpec

from ..graphs import ClipsGraph
from ..imagebind import Block, Preprocessor, Trunk
from . import stage
from .mel import batched_fbank
from .sound import floor_noise, loudness, synthesise
from .start import linear_layers, sines
from .world import Sound, SoundKind

AUDIO = stage.Plan("audio", 1000, 2e-3)
KINDS: tuple[SoundKind, ...] = get_args(SoundKind)
_SECONDS = {
    "low tone": (0.45, 1.1), "high tone": (0.45, 1.1), "rising sweep": (0.55, 1.3), "falling sweep": (0.55, 1.3),
    "noise burst": (0.28, 0.75), "knock": (0.17, 0.23), "chirp": (0.25, 0.35),
}  # fmt: skip
_BATCH, _BINS, _MOST = 40, 16, 5
_FOREIGN_SHARE = 6  # one piece in this many
_FAR = 10.0  # nobody's onset


@dataclass(frozen=True)
class Pieces:
    """n pieces of two seconds and their labels.

    samples (n, 32000); kind (n, 8): 1 heard, 0 not, -1 too little of it; beeps: heard onsets 1-5, 0 none (n,); begins,
    ends: fraction of the piece where the sound does, _FAR where outside (n,); foreign: 0 or 1 (n,).
    """

    samples: Tensor
    kind: Tensor
    beeps: Tensor
    begins: Tensor
    ends: Tensor
    foreign: Tensor


class Listener(nn.Module):
    """The graph that stays, and the heads that go."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert spec.audio is not None
        self.graph = ClipsGraph(spec)
        width = spec.audio.encoder.output_size
        self.kind, self.beeps, self.foreign = (
            nn.Linear(width, len(KINDS)),
            nn.Linear(width, _MOST + 1),
            nn.Linear(width, 1),
        )
        self.begins, self.ends = nn.Linear(width, _BINS + 2), nn.Linear(width, _BINS + 2)

    def forward(self, fbank: Tensor) -> Tensor:
        out: Tensor = self.graph(fbank) * (self.kind.in_features**0.5 / 20.0)  # of variance 1
        return out


def random_pieces(n: int, rng: np.random.Generator, spec: AudioSpec, strange: np.ndarray) -> Pieces:
    """n labelled pieces; one in six is of the strange tracks (m, samples)."""
    rate, seconds = spec.sample_rate, spec.clip_seconds
    count = int(rate * seconds)
    samples = np.zeros((n, count), np.float32)
    kind, beeps = np.zeros((n, len(KINDS)), np.float32), np.zeros(n, np.int64)
    begins, ends = np.full(n, _FAR, np.float32), np.full(n, _FAR, np.float32)
    foreign = np.zeros(n, np.float32)
    for i in range(n):
        if i % _FOREIGN_SHARE == 0:
            row, first = strange[rng.integers(len(strange))], rng.integers(strange.shape[1] - count)
            samples[i], foreign[i] = row[first : first + count] * 10 ** rng.uniform(-0.5, 0), 1.0
            continue
        noise = floor_noise(count, rng, rate)
        if rng.random() < 0.15:
            samples[i] = noise
            continue
        name = KINDS[rng.choice(len(KINDS), p=_ODDS)]
        number = int(rng.integers(1, _MOST + 1)) if name == "beeps" else 1
        length = 0.25 * number * rng.uniform(0.9, 1.15) if name == "beeps" else rng.uniform(*_SECONDS[name])
        start = rng.uniform(-0.6 * length, seconds - 0.2 * length)
        wave = synthesise(Sound(name, 0.0, 1.0, number), length, rng, rate) * loudness(rng)
        first, last = int(start * rate), int(start * rate) + len(wave)
        total = noise
        total[max(first, 0) : min(last, count)] += wave[max(-first, 0) : len(wave) - max(last - count, 0)]
        samples[i] = total.clip(-1, 1)
        heard = (min(start + length, seconds) - max(start, 0)) / length
        kind[i, KINDS.index(name)] = 1.0 if heard > 0.55 else -1.0 if heard > 0.05 else 0.0
        if name == "beeps":
            onsets = start + np.arange(number) * length / number
            beeps[i] = int(((onsets > -0.03) & (onsets < seconds - 0.06)).sum())
        if start >= 0:
            begins[i] = start / seconds
        if start + length <= seconds:
            ends[i] = (start + length) / seconds
    return Pieces(*(torch.from_numpy(array) for array in (samples, kind, beeps, begins, ends, foreign)))


def coarse(fbank: Tensor, generator: torch.Generator) -> Tensor:
    """Filterbanks as after a codec of low rate: what lies far under the peak goes missing in places, and the highs."""
    n = len(fbank)
    peak = fbank.amax((1, 2, 3), keepdim=True)
    depth = (4.5 + 7.0 * torch.rand(n, 1, 1, 1, generator=generator)) / 9.138  # natural logarithm of power
    holes = torch.rand(n, 1, fbank.shape[2] // 4, fbank.shape[3] // 4, generator=generator)
    holes = (holes.repeat_interleave(4, 2).repeat_interleave(4, 3) < 0.7) & (fbank < peak - depth)
    cut = fbank.shape[2] - (40 * torch.rand(n, 1, 1, 1, generator=generator) ** 2)
    holes |= torch.arange(fbank.shape[2])[None, None, :, None] > cut
    holes &= torch.rand(n, 1, 1, 1, generator=generator) < 0.4
    return torch.where(holes, fbank.amin((1, 2, 3), keepdim=True), fbank)


def train_audio(spec: ModelSpec, work: Path, strange: np.ndarray, held_strange: np.ndarray) -> None:
    """The plan into work/audio.pt. strange: float32 (m, samples) at 16 kHz."""
    assert spec.audio is not None
    audio = spec.audio
    torch.manual_seed(0)
    listener = Listener(spec)
    _initialise(listener)

    def learn(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rng = np.random.default_rng((3, step))
        pieces = random_pieces(_BATCH, rng, audio, strange)
        fbank = coarse(batched_fbank(pieces.samples, audio), generator)
        with torch.autocast("cpu", torch.bfloat16):
            vectors = listener(fbank)
        return _loss(listener, vectors.float(), pieces)

    stage.run(AUDIO, listener, learn, work, lambda step: evaluate_audio(listener, audio, held_strange), 400)


def load_audio(spec: ModelSpec, work: Path) -> ClipsGraph:
    """The graph of the stage, as far as it has come."""
    listener = Listener(spec)
    listener.load_state_dict(stage.weights(AUDIO.name, work))
    return listener.graph.eval().requires_grad_(False)


@torch.no_grad()
def evaluate_audio(listener: Listener, spec: AudioSpec, held_strange: np.ndarray) -> str:
    """Figures on 500 pieces of another seed, a sixth of them foreign."""
    pieces = random_pieces(500, np.random.default_rng(2**31 + 7), spec, held_strange)
    vectors = listener(batched_fbank(pieces.samples, spec))
    own, strange = pieces.foreign == 0, listener.foreign(vectors)[:, 0] > 0
    clear = own & (pieces.kind >= 0).all(1)
    kinds = ((listener.kind(vectors) > 0) == (pieces.kind > 0)).all(1)[clear].float().mean()
    beeping = pieces.beeps > 0
    beeps = (listener.beeps(vectors).argmax(1) == pieces.beeps)[beeping & clear].float().mean()
    begun = pieces.begins < _FAR
    begins = (torch.sigmoid(listener.begins(vectors)[:, 0]) - pieces.begins).abs()[begun].mean()
    return (
        f"kinds {kinds:.3f} beeps {beeps:.3f} begins {begins:.4f} "
        f"foreign {strange[~own].float().mean():.3f} wrongly {strange[own].float().mean():.4f}"
    )


def _loss(listener: Listener, vectors: Tensor, pieces: Pieces) -> tuple[Tensor, dict[str, float]]:
    known = (pieces.kind >= 0).float()
    kind = functional.binary_cross_entropy_with_logits(listener.kind(vectors), pieces.kind.clamp(min=0), known)
    weight = 0.15 + (pieces.beeps > 0).float()
    beeps = functional.cross_entropy(listener.beeps(vectors), pieces.beeps, reduction="none")
    beeps = (beeps * weight).sum() / weight.sum()
    foreign = functional.binary_cross_entropy_with_logits(listener.foreign(vectors)[:, 0], pieces.foreign)
    times = vectors.new_zeros(())
    for head, time in ((listener.begins, pieces.begins), (listener.ends, pieces.ends)):
        out, inside = head(vectors), (time < _FAR).float()
        sort = (time.clamp(0, 0.999) * _BINS).long().where(time < _FAR, torch.full_like(pieces.beeps, _BINS))
        far = (torch.sigmoid(out[:, 0]) - time.clamp(0, 1)).abs() * inside
        times = times + 0.5 * functional.cross_entropy(out[:, 1:], sort) + 4 * far.sum() / (inside.sum() + 1e-6)
    value = 6 * kind + beeps + 2 * foreign + times
    figures = {"kind": kind, "beeps": beeps, "foreign": foreign, "times": times}
    return value, {name: float(figure.detach()) for name, figure in figures.items()}


@torch.no_grad()
def _initialise(listener: Listener) -> None:
    linear_layers(listener)
    front = listener.graph.modality_preprocessors["audio"]
    trunk = listener.graph.modality_trunks["audio"]
    assert isinstance(front, Preprocessor)
    assert isinstance(trunk, Trunk)
    stem = front.rgbt_stem.proj
    nn.init.trunc_normal_(stem.weight, std=2.0 / 16)
    nn.init.normal_(front.cls_token, std=0.5)
    for block in trunk.blocks:
        assert isinstance(block, Block)
        nn.init.trunc_normal_(block.attn.in_proj_weight, std=block.attn.in_proj_weight.shape[1] ** -0.5)
        block.attn.out_proj.weight.mul_(0.4)
        block.mlp.fc2.weight.mul_(0.4)
    table = front.pos_embedding_helper.pos_embed
    rows = 128 // 16
    table[0, 1:] = sines(rows, (table.shape[1] - 1) // rows, table.shape[-1])


_ODDS = np.array([3.0 if kind == "beeps" else 1.0 for kind in KINDS]) / (len(KINDS) + 2)
