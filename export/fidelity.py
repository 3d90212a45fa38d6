"""What quantising the language model cost, token by token, against its unquantised self."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vllama.runtime.backbone import Backbone
from vllama.runtime.bundle import Bundle, FidelityRow
from vllama.runtime.encoders import Encoders
from vllama.runtime.pixels import timestamps
from vllama.runtime.prompt import Media, Piece, Turn, build_prompt
from vllama.runtime.spec import ModelSpec, Sampling
from vllama.runtime.types import Float32, Frame, Samples

_QUESTIONS = (
    "What is happening here?",
    "Describe what you see in one sentence.",
    "How many people are there?",
    "What could happen next?",
)
_ANSWER_TOKENS = 16
_GREEDY = Sampling(temperature=0.0, top_p=1.0, top_k=0, max_tokens=_ANSWER_TOKENS)


@dataclass(frozen=True)
class _Run:
    answer: list[int]
    logits: Float32  # (answer tokens, n_vocab), each given the reference's answer before it


def fixed_prompts(bundle: Bundle) -> list[list[Piece]]:
    """Four questions, each of a seeded picture sequence, of sound beside it where the model hears, and of nothing."""
    spec = bundle.spec
    with Encoders(bundle) as encoders:
        media = [_seeded_video(spec, encoders), Media()]
        if spec.audio:
            media.insert(1, _with_sound(media[0], spec, encoders))
    return [build_prompt([Turn(question, each)], spec) for question in _QUESTIONS for each in media]


def llm_fidelity(
    reference: Path,
    quantised: Path,
    prompts: Sequence[Sequence[Piece]],
    n_ctx: int,
    quant: str,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FidelityRow:
    """Mean KL divergence (nats) and rate of equal most likely tokens over the reference's greedy answers, and how many
    greedy answers come out different.

    Args:
        reference: the unquantised GGUF. quantised: the one to be judged, of type `quant`.
        progress: (prompts run, prompts to run), over both models.
    """
    total = 2 * len(prompts)
    step = progress or (lambda done, total: None)
    references: list[_Run] = []
    with Backbone(reference, n_ctx, threads=threads, reference=True) as backbone:
        for prompt in prompts:
            answer = _greedy(backbone, prompt)
            references.append(_Run(answer, _teacher_forced(backbone, prompt, answer)))
            step(len(references), total)
    flips, divergences, same = 0, list[float](), list[bool]()
    with Backbone(quantised, n_ctx, threads=threads, reference=True) as backbone:
        for number, (prompt, run) in enumerate(zip(prompts, references, strict=True)):
            flips += _greedy(backbone, prompt) != run.answer
            logits = _teacher_forced(backbone, prompt, run.answer)
            divergences += _kl(run.logits, logits).tolist()
            same += (run.logits.argmax(-1) == logits.argmax(-1)).tolist()
            step(len(prompts) + number + 1, total)
    return FidelityRow(
        "llm", quant, kl=float(np.mean(divergences)), same_top=float(np.mean(same)), flips=flips, prompts=len(prompts)
    )


def _greedy(backbone: Backbone, prompt: Sequence[Piece]) -> list[int]:
    backbone.prefill(backbone.tokenize(prompt))
    return list(backbone.generate(_GREEDY, 0))


def _teacher_forced(backbone: Backbone, prompt: Sequence[Piece], answer: Sequence[int]) -> Float32:
    segments = backbone.tokenize(prompt)
    rows = []
    for length in range(max(len(answer), 1)):
        backbone.prefill([*segments, list(answer[:length])] if length else segments)
        rows.append(backbone.logits())
    return np.stack(rows)


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
    features = []
    for index in range(count):
        phase = index / count * np.pi
        planes = [np.sin(u * grid[None, :] + phase) * np.cos(v * grid[:, None]) for u, v in waves]
        pixels = (np.stack(planes, -1) * 127.5 + 127.5).astype(np.uint8)
        features.append(encoders.frame_features(Frame(index, float(index), pixels)))
    return Media(
        video=encoders.video_embeds(np.stack(features)),
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
