"""How fast a model encodes and answers on this machine, what memory that takes, and what the machine could do at best.

Encoding and answering run in a process of their own each, so that each has a peak of memory of its own.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..bundle import open_bundle
from ..chat import Chat
from ..engine import Engine
from ..files import file_errors
from ..llm.backbone import Backbone
from ..llm.llm_file import read_llm_facts
from ..machine import peak_bytes
from ..media import probe, read_frames
from ..placement import place
from ..plan import kv_bytes
from ..spec import ModelSpec
from ..timeline import Timeline
from ..times import ms_since
from ..types import Float32, Frame, Samples
from .figures import GRAPHS, Answering, Benchmark, Encoding, Setup, Stage
from .flops import audio_flops, clip_flops, frame_flops, video_flops
from .limits import Limits, measure_limits
from .own_process import Say, in_own_process
from .sample_clip import RATE, write_sample_clip

QUESTIONS = ("What does the person in this video do right now?", "Which things can be seen in the picture behind him?")
_CLIP = "clip.mp4"
_CLIP_SECONDS = 8  # and so as many pictures at one a second, and none more for the whole-clip rule
_LEAST_ROUNDS = 3
_PROMPT_TOKENS = 128
_LEAST_TOKENS = 8


def run_benchmark(setup: Setup, seconds: float, say: Say = lambda text: None) -> Benchmark:
    """Measure a bundle.

    Args:
        seconds: for each figure; what takes longer is done three times.
        say: told what is measured now.

    Raises:
        VllamaError: a part cannot run here.
    """
    bundle = open_bundle(setup.bundle)
    place(bundle, setup.device, setup.runner)  # refuses before minutes of measuring what cannot be
    with _writing("temporary files"):
        # Windows deletes no file that is mapped, as the cache is while an error passes here.
        temporary = TemporaryDirectory(prefix="vllama-bench-", ignore_cleanup_errors=True)
    with temporary as work:
        say("the machine's own limits")
        limits = in_own_process(_limits, setup.threads, seconds, Path(work), say=say)
        prepare(Path(work))
        encoding = in_own_process(measure_encoding, setup, Path(work), seconds, say=say)
        answering = in_own_process(measure_answering, setup, Path(work), seconds, say=say)
    return Benchmark(bundle.spec.name, dict(bundle.manifest.precision), setup, limits, encoding, answering)


def prepare(work: Path) -> None:
    """Make the clip that is indexed and asked about.

    Raises:
        DiskFullError, FileError: it cannot be written.
    """
    with _writing(work):
        write_sample_clip(work / _CLIP, _CLIP_SECONDS)


def measure_encoding(setup: Setup, work: Path, seconds: float, say: Say) -> Encoding:
    """Each step by itself, then the clip in `work`; its timeline stays there."""
    say("opening the model")
    with _writing(work), _opened(setup, work) as engine:
        stages = []
        for name, gflop, call in _steps(engine):
            say(f"the graph {GRAPHS[name]}")
            stages.append(Stage(name, _median_ms(call, seconds), gflop))
        say(f"indexing {_CLIP_SECONDS} s of video")
        decode = partial(_decode_ms, engine.spec, work / _CLIP)
        stages.insert(0, Stage("decode", statistics.median(decode() for _ in range(_LEAST_ROUNDS)), 0.0))
        started = time.perf_counter()
        engine.index(work / _CLIP, fps=1.0, must_save=True)
        took = time.perf_counter() - started
    return Encoding(engine.placement.device, tuple(stages), _CLIP_SECONDS, took, peak_bytes())


def measure_answering(setup: Setup, work: Path, seconds: float, say: Say) -> Answering:
    """Ask about the timeline that `measure_encoding` left."""
    say("opening the model and a saved timeline")
    with _writing(work):
        ready_ms = statistics.median(_ready_ms(setup, work) for _ in range(_LEAST_ROUNDS))
    with _writing(work), _opened(setup, work) as engine:
        timeline = engine.index(work / _CLIP, fps=1.0)
        backbone = engine.backbone
        say("first tokens")
        prompt, firsts = _first_tokens(engine, timeline, backbone, seconds)
        say("reading prompts")
        prefill = 1000 * _prompt_length(backbone) / _median_ms(partial(_read_prompt, backbone), seconds, warm=False)
        say("writing answers")
        decode, positions = _decode_rate(backbone, seconds)
        facts = read_llm_facts(engine.bundle.llm)
        kv = kv_bytes(facts, backbone.n_ctx, engine.kv) * positions // backbone.n_ctx
        read = facts.weights - facts.embedding + kv  # of the token table one row is read
    return Answering(backbone.settings, ready_ms, prompt, *firsts, prefill, decode, read, peak_bytes())


def _limits(threads: int, seconds: float, work: Path, say: Say) -> Limits:
    with _writing(work):
        return measure_limits(threads, seconds, work)


def _writing(what: Path | str) -> AbstractContextManager[None]:
    return file_errors(what, "free some, or set $TMPDIR to another disk", "set $TMPDIR to a folder that can be written")


@contextmanager
def _opened(setup: Setup, work: Path) -> Iterator[Engine]:
    """The user's cache says that the bundle was verified; timelines go elsewhere."""
    bundle = open_bundle(setup.bundle)
    with _cached_in(work), Engine(
        bundle, device=setup.device, runner=setup.runner, threads=setup.threads, gpu_layers=setup.gpu_layers,
        kv=setup.kv,
    ) as engine:  # fmt: skip
        yield engine


@contextmanager
def _cached_in(folder: Path) -> Iterator[None]:
    before = os.environ.get("VLLAMA_CACHE")
    os.environ["VLLAMA_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["VLLAMA_CACHE"]
        else:
            os.environ["VLLAMA_CACHE"] = before


def _ready_ms(setup: Setup, work: Path) -> float:
    started = time.perf_counter()
    with _opened(setup, work) as engine:
        engine.index(work / _CLIP, fps=1.0)
        return ms_since(started)


def _steps(engine: Engine) -> list[tuple[str, float, Callable[[], object]]]:
    """Each graph: its name, billions of operations, and a call on made-up input."""
    spec, encoders, rng = engine.spec, engine.encoders, np.random.default_rng(0)
    size, hidden = spec.video.image_size, spec.llm.hidden_size
    frame = Frame(0, 0.0, rng.integers(0, 256, (size, size, 3), np.uint8))
    features = _features(rng, spec.video.num_frames, spec.video.qformer.query_tokens, spec.video.qformer.hidden_size)
    steps: list[tuple[str, float, Callable[[], object]]] = [
        ("frame", frame_flops(spec.video) / 1e9, lambda: encoders.frame_features([frame])),
        ("video", video_flops(spec.video, len(features), hidden) / 1e9, lambda: encoders.video_embeds(features)),
    ]
    audio = spec.audio
    if audio:
        samples = rng.uniform(-0.5, 0.5, (1, round(audio.clip_seconds * audio.sample_rate))).astype(np.float32)
        clip, heard = (
            Samples(0.0, samples, audio.sample_rate),
            _features(rng, audio.num_clips, audio.encoder.output_size),
        )
        steps += [
            ("clip", clip_flops(audio) / 1e9, lambda: encoders.clip_features([clip])),
            ("audio", audio_flops(audio, len(heard), hidden) / 1e9, lambda: encoders.audio_embeds(heard)),
        ]
    return steps


def _features(rng: np.random.Generator, *shape: int) -> Float32:
    return rng.standard_normal(shape).astype(np.float32)


def _decode_ms(spec: ModelSpec, clip: Path) -> float:
    """Of each picture that is encoded: all those between are decoded, too."""
    info = probe(clip)
    wanted = range(0, len(info.frame_times), RATE)
    started = time.perf_counter()
    taken = sum(1 for _ in read_frames(info, wanted, spec.video.image_size))
    return ms_since(started) / taken


def _first_tokens(
    engine: Engine, timeline: Timeline, backbone: Backbone, seconds: float
) -> tuple[int, tuple[float, float, float]]:
    """Tokens of the prompt; median milliseconds cold, as a second question, and read ahead."""
    prompt, rounds = 0, list[tuple[float, float, float]]()
    end = time.perf_counter() + seconds
    while len(rounds) < _LEAST_ROUNDS or time.perf_counter() < end:
        backbone.prefill([[backbone.n_vocab - 1]])  # no prompt begins with it: the KV cache is of no use
        chat = engine.chat(timeline)
        cold, prompt = _first_token(chat, engine.spec, QUESTIONS[0])
        warm, _ = _first_token(chat, engine.spec, QUESTIONS[1])
        other = engine.chat(timeline)
        other.prepare()
        backbone.wait_ahead()
        ahead, _ = _first_token(other, engine.spec, QUESTIONS[1])
        rounds.append((cold, warm, ahead))
    cold, warm, ahead = (statistics.median(times) for times in zip(*rounds, strict=True))
    return prompt, (cold, warm, ahead)


def _first_token(chat: Chat, spec: ModelSpec, question: str) -> tuple[float, int]:
    """Milliseconds from the question to a whole answer of one token, and tokens of its prompt."""
    sampling = replace(spec.llm.sampling, temperature=0.0, max_tokens=1)
    started = time.perf_counter()
    *_, last = chat.ask(question, sampling=sampling, seed=0)
    assert last.usage is not None
    return ms_since(started), last.usage.prompt_tokens


def _read_prompt(backbone: Backbone) -> None:
    """A prompt that shares nothing with the one before."""
    tokens = np.random.default_rng().integers(3, backbone.n_vocab, _prompt_length(backbone))
    backbone.prefill([tokens.tolist()])


def _prompt_length(backbone: Backbone) -> int:
    return min(_PROMPT_TOKENS, backbone.n_ctx // 2)


def _decode_rate(backbone: Backbone, seconds: float) -> tuple[float, int]:
    """Positions per second, one by one; and how many were in the KV cache in the middle of that."""
    ids = np.random.default_rng(0).integers(3, backbone.n_vocab, _prompt_length(backbone)).tolist()
    backbone.prefill([ids])
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (len(times) < _LEAST_TOKENS or time.perf_counter() < end) and len(ids) < backbone.n_ctx - 1:
        ids.append(int(backbone.logits().argmax()))
        started = time.perf_counter()
        backbone.prefill([ids])  # decodes what is new: the last one
        times.append(time.perf_counter() - started)
    return 1 / statistics.median(times), len(ids) - len(times) // 2


def _median_ms(call: Callable[[], object], seconds: float, *, warm: bool = True) -> float:
    """Of so many rounds as the seconds allow; warm: one more before, which opens the graph."""
    if warm:
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _LEAST_ROUNDS or time.perf_counter() < end:
        started = time.perf_counter()
        call()
        times.append(ms_since(started))
    return statistics.median(times)
