"""The stages in their order, and what each one takes from those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vllama.runtime.errors import MissingFileError
from vllama.runtime.registry import find_spec
from vllama.runtime.spec import ModelSpec

from . import branches as branching
from . import hearing, image, instruct, stage
from .branches import Branches
from .cache import Features, Strange, strange_pictures, strange_sounds, world_features
from .judge import Verdict, figures
from .llama import Llama, read_hf
from .sampler import HELD_OUT
from .stage_language import train_language
from .strange_sounds import strange_tracks
from .strangers import strangers
from .tokenizer import read_tokenizer
from .write import write_weights

SHIPPED = ("image", "audio", "language", "video-text", "audio-text")
# Question by question behind the branches, with the language model frozen and then thawed: from facts lines that are
# right already, these stages lost a point or two in the few minutes they were given, so they made nothing that ships.
STAGES = (*SHIPPED, "video-instruct", "audio-instruct", "polish")
CLIPS, HELD = 16000, 300  # clips of the joined stages, and of their reports
_SHOTS, _TRACKS = 1500, 500
_HELD_SHOTS = 60
_ASKED = 100  # held-out clips asked about in a report of the instruct stages


def run_stage(name: str, work: Path, films: Sequence[Path]) -> None:
    """One stage of STAGES, to its end, from where it was stopped."""
    spec = find_spec("miniature")
    _RUNS[name](spec, work, films)


def write(work: Path, out: Path) -> None:
    """The weights in the original's layout, each part as far as it has come."""
    spec = find_spec("miniature")
    joined = latest(spec, work)
    frames, clips = image.load_image(spec, work / "image"), hearing.load_audio(spec, work / "audio")
    write_weights(spec, out, frames, clips, joined.branches, joined.llama, _hf(work))


def judge(work: Path, clips: int) -> None:
    """Print accuracy per kind of question on held-out clips, with the ablations."""
    spec = find_spec("miniature")
    world, odd = _features(spec, work, HELD_OUT, clips), _odd(spec, work, (), HELD_OUT)
    for verdict in Verdict:
        print(figures(latest(spec, work), read_tokenizer(_hf(work)), world, odd, verdict), flush=True)


def latest(spec: ModelSpec, work: Path) -> instruct.Joined:
    """Branches and language model after the last stage that has begun.

    Raises:
        MissingFileError: there is no language model yet.
    """
    joined = instruct.Joined(Branches(spec), _language_model(work))
    for name in (branching.VIDEO_TEXT.name, branching.AUDIO_TEXT.name):
        if (work / "joined" / f"{name}.pt").exists():
            joined.branches.load_state_dict(stage.weights(name, work / "joined"), strict=False)
    for plan in (instruct.VIDEO_INSTRUCT, instruct.AUDIO_INSTRUCT, instruct.POLISH):
        if (work / "joined" / f"{plan.name}.pt").exists():
            joined.load_state_dict(stage.weights(plan.name, work / "joined"), strict=False)
    return joined


def _image(spec: ModelSpec, work: Path, films: Sequence[Path]) -> None:
    if not stage.finished(image.IMAGE, work / "image"):
        known = strangers(_SHOTS, 0, films).flatten(0, 1)
        image.train_image(spec, work / "image", known, strangers(_HELD_SHOTS, HELD_OUT).flatten(0, 1))


def _audio(spec: ModelSpec, work: Path, films: Sequence[Path]) -> None:
    if not stage.finished(hearing.AUDIO, work / "audio"):
        known = strange_tracks(_TRACKS, 0, films)
        hearing.train_audio(spec, work / "audio", known, strange_tracks(_HELD_SHOTS, HELD_OUT))


def _language(spec: ModelSpec, work: Path, films: Sequence[Path]) -> None:
    train_language(work / "llama")


def _video_text(spec: ModelSpec, work: Path, films: Sequence[Path]) -> None:
    world, held = (_features(spec, work, first, count, heard=False) for first, count in ((0, CLIPS), (HELD_OUT, HELD)))
    odd = _odd(spec, work, films, 0, heard=False)
    branching.train_video_text(spec, work / "joined", read_tokenizer(_hf(work)), _table(work), world, held, odd)


def _audio_text(spec: ModelSpec, work: Path, films: Sequence[Path]) -> None:
    branches = latest(spec, work).branches
    branching.train_audio_text(
        branches, work / "joined", read_tokenizer(_hf(work)), _table(work), *_data(spec, work, films)
    )


def _instruct(plan: stage.Plan, kinds: instruct.Kinds) -> Callable[[ModelSpec, Path, Sequence[Path]], None]:
    def run(spec: ModelSpec, work: Path, films: Sequence[Path]) -> None:
        joined = latest(spec, work)
        world, held, odd = _data(spec, work, films)
        tokenizer = read_tokenizer(_hf(work))
        strange = _odd(spec, work, (), HELD_OUT)

        def report(step: int) -> str:
            return figures(joined, tokenizer, held[:_ASKED], strange, Verdict.AS_IT_IS)

        instruct.train_instruct(plan, kinds, joined, work / "joined", tokenizer, world, odd, report)

    return run


def _hf(work: Path) -> Path:
    return work / "llama" / "hf"


def _language_model(work: Path) -> Llama:
    if not (_hf(work) / "model.safetensors").exists():
        raise MissingFileError(f"{_hf(work)}: no language model yet; run the stage `language` first")
    return read_hf(_hf(work))


def _table(work: Path) -> Tensor:
    """Embeddings of the language model."""
    return _language_model(work).model.embed_tokens.weight.detach()


def _data(spec: ModelSpec, work: Path, films: Sequence[Path]) -> tuple[Features, Features, Strange]:
    return _features(spec, work, 0, CLIPS), _features(spec, work, HELD_OUT, HELD), _odd(spec, work, films, 0)


def _features(spec: ModelSpec, work: Path, first_seed: int, count: int, heard: bool = True) -> Features:
    """heard: whether the audio encoder has been trained already; else the sounds are empty."""
    frames = image.load_image(spec, work / "image")
    clips = hearing.load_audio(spec, work / "audio") if heard else None
    return world_features(spec, work / "cache", frames, clips, count, first_seed)


def _odd(spec: ModelSpec, work: Path, films: Sequence[Path], seed: int, heard: bool = True) -> Strange:
    """Features of foreign media, kept in the cache folder; those of a seed other than 0 are for judging."""
    pictures, sounds = (work / "cache" / f"strange-{kind}-{seed}.pt" for kind in ("pictures", "sounds"))
    if not pictures.exists():
        shots = strangers(_SHOTS if seed == 0 else _HELD_SHOTS, seed, films)
        torch.save(strange_pictures(spec, image.load_image(spec, work / "image"), shots, seed), pictures)
    if heard and not sounds.exists():
        tracks = strange_tracks(_TRACKS if seed == 0 else _HELD_SHOTS, seed, films)
        torch.save(strange_sounds(spec, hearing.load_audio(spec, work / "audio"), tracks, seed), sounds)
    return Strange(
        *(torch.load(path, weights_only=True) if path.exists() else torch.zeros(0) for path in (pictures, sounds))
    )


_RUNS: dict[str, Callable[[ModelSpec, Path, Sequence[Path]], None]] = {
    "image": _image,
    "audio": _audio,
    "language": _language,
    "video-text": _video_text,
    "video-instruct": _instruct(instruct.VIDEO_INSTRUCT, instruct.VIDEO_KINDS),
    "audio-text": _audio_text,
    "audio-instruct": _instruct(instruct.AUDIO_INSTRUCT, instruct.AUDIO_KINDS),
    "polish": _instruct(instruct.POLISH, instruct.ALL_KINDS),
}
