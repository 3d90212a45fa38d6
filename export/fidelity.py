"""What quantising the language model cost, token by token, against its unquantised self."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vllama.runtime.bundle import Bundle
from vllama.runtime.encoders import Encoders
from vllama.runtime.llm.backbone import Backbone
from vllama.runtime.llm.rows import Key
from vllama.runtime.manifest import FidelityRow
from vllama.runtime.pixels import timestamps
from vllama.runtime.progress import counted
from vllama.runtime.prompt import Media, Piece, Turn, build_prompt
from vllama.runtime.spec import ModelSpec, Sampling
from vllama.runtime.types import Embeds, Float32, Frame, Samples

from .llama import LlamaFolder
from .reference import Row, Rows, reference_bytes, reference_logits

_QUESTIONS = (
    "What is happening here?",
    "Describe what you see in one sentence.",
    "How many people are there?",
    "What could happen next?",
)
_ANSWER_TOKENS = 16
_GREEDY = Sampling.greedy(_ANSWER_TOKENS)


@dataclass(frozen=True)
class _Run:
    """A greedy answer, and the logits (n, n_vocab) that each of its tokens, and its end, was chosen by."""

    rows: list[Row]  # of the prompt
    keys: list[Key]
    answer: list[int]
    logits: Float32


def fixed_prompts(bundle: Bundle, threads: int | None = None) -> list[list[Piece]]:
    """Four questions, each of a seeded picture sequence, of sound beside it where the model hears, and of nothing."""
    spec = bundle.spec
    with Encoders(bundle, threads=threads) as encoders:
        media = [_seeded_video(spec, encoders), Media()]
        if spec.audio:
            media.insert(1, _with_sound(media[0], spec, encoders))
    return [build_prompt([Turn(question, each)], spec) for question in _QUESTIONS for each in media]


def llm_fidelity(
    llama: LlamaFolder,
    quantised: Path,
    prompts: Sequence[Sequence[Piece]],
    quant: str,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FidelityRow:
    """Mean KL divergence (nats) and rate of equal most likely tokens over greedy answers of the quantised model, and
    how many of them the original would not have given.

    Args:
        llama: the original; it is read layer by layer, in float32.
        quantised: the GGUF to be judged, of type `quant`.
        progress: (bytes of weights used, bytes in all), over both models.
    """
    size = quantised.stat().st_size
    total = size + reference_bytes(llama)
    used = counted(progress, total)
    runs = list(_answered(quantised, prompts, threads, lambda: used(size // len(prompts))))
    expected = _reference(llama, runs, used)
    used(total)
    flips, divergences, same = 0, list[float](), list[bool]()
    for run, logits in zip(runs, expected, strict=True):
        equal = (logits.argmax(-1) == run.logits.argmax(-1)).tolist()
        flips += not all(equal)
        same += equal
        divergences += _kl(logits, run.logits).tolist()
    return FidelityRow(
        "llm", quant, kl=float(np.mean(divergences)), same_top=float(np.mean(same)), flips=flips, prompts=len(prompts)
    )


def _answered(
    quantised: Path, prompts: Sequence[Sequence[Piece]], threads: int | None, done: Callable[[], None]
) -> Iterator[_Run]:
    with Backbone(quantised, 2, threads=threads, kv="f32") as backbone:
        tokenised = [backbone.tokenize(prompt) for prompt in prompts]
        longest = max(len(backbone.keys(segments)) for segments in tokenised)
    with Backbone(quantised, longest + _ANSWER_TOKENS + 1, threads=threads, kv="f32") as backbone:
        for segments in tokenised:
            backbone.prefill(segments)
            answer, logits = [], []
            for token in backbone.generate(_GREEDY, 0):
                answer.append(token)
                logits.append(backbone.logits())
            if backbone.finish == "stop":
                logits.append(backbone.logits())
            yield _Run(list(_rows(segments)), backbone.keys(segments), answer, np.stack(logits))
            done()


def _reference(llama: LlamaFolder, runs: Sequence[_Run], used: Callable[[int], None]) -> list[Float32]:
    """The original's logits at the same places, given the same answers."""
    tree, wanted = Rows(), []
    for run in runs:
        given = run.answer[: len(run.logits) - 1]
        places = tree.add([*run.rows, *given], [*run.keys, *given])
        wanted.append(places[len(run.rows) - 1 :])
    logits = reference_logits(llama, tree, [place for each in wanted for place in each], used)
    return np.split(logits, np.cumsum([len(each) for each in wanted])[:-1])


def _rows(segments: Sequence[list[int] | Embeds]) -> Iterator[Row]:
    for segment in segments:
        yield from segment if isinstance(segment, list) else segment.data


def _kl(reference: Float32, other: Float32) -> np.ndarray:
    p, q = _log_softmax(reference), _log_softmax(other)
    divergence: np.ndarray = (np.exp(p) * (p - q)).sum(-1)
    return divergence


def _log_softmax(logits: Float32) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _seeded_video(spec: ModelSpec, encoders: Encoders) -> Media:
    """Smooth moving colours: pictures with the low spatial frequencies that real ones have."""
    rng = np.random.default_rng(0)
    size, count = spec.video.image_size, spec.video.num_frames
    grid = np.linspace(0.0, 2.0 * np.pi, size, dtype=np.float32)
    waves = rng.uniform(0.5, 3.0, (3, 2)).astype(np.float32)
    frames = []
    for index in range(count):
        phase = index / count * np.pi
        planes = [np.sin(u * grid[None, :] + phase) * np.cos(v * grid[:, None]) for u, v in waves]
        pixels = (np.stack(planes, -1) * 127.5 + 127.5).astype(np.uint8)
        frames.append(Frame(index, float(index), pixels))
    return Media(
        video=encoders.video_embeds(encoders.frame_features(frames)),
        num_frames=count,
        seconds=timestamps(range(count), 1.0),
    )


def _with_sound(media: Media, spec: ModelSpec, encoders: Encoders) -> Media:
    audio = spec.audio
    assert audio is not None
    rng = np.random.default_rng(1)
    count = round(audio.clip_seconds * audio.sample_rate)
    time = np.arange(count, dtype=np.float32) / audio.sample_rate
    clips = [
        Samples(
            index * audio.clip_seconds,
            (0.3 * np.sin(2 * np.pi * (220 + 90 * index) * time) + 0.01 * rng.standard_normal(count)).astype(
                np.float32
            )[None],
            audio.sample_rate,
        )
        for index in range(audio.num_clips)
    ]
    sound = encoders.audio_embeds(encoders.clip_features(clips))
    return Media(video=media.video, audio=sound, num_frames=media.num_frames, seconds=media.seconds)
