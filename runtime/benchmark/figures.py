"""What a benchmark has measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..engine import GpuLayers
from ..llm.llama_context import Kv
from .limits import Limits

GRAPHS = {"frame": "frames", "clip": "clips", "video": "video", "audio": "audio"}  # of a stage
_ROUNDED = ("frame", "clip")  # what multiplies in 8 bits where it is int8: a Q-former only stores its weights shorter


@dataclass(frozen=True)
class Setup:
    """What is measured, and how it runs: a verified bundle, and as in `Engine.open`."""

    bundle: Path
    threads: int
    device: str = "auto"
    runner: str = "auto"
    gpu_layers: GpuLayers = "auto"
    kv: Kv | None = None


@dataclass(frozen=True)
class Stage:
    """One step, each time it is done: median milliseconds, and billions of multiplications and additions.

    name: "decode" (a picture a second out of a video, stretched), "frame" (vision encoder and image Q-former), "clip"
    (a stretch of sound: filterbank, audio encoder), "video" and "audio" (the Q-formers, once a question).
    """

    name: str
    ms: float
    gflop: float


@dataclass(frozen=True)
class Encoding:
    """Of a process that encodes a clip with the language model open, as `vllama ask` does for a clip it never saw.

    device: of the encoders. index_seconds: for a clip of clip_seconds, a picture a second and all of its sound.
    """

    device: str
    stages: tuple[Stage, ...]
    clip_seconds: float
    index_seconds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Answering:
    """Of a process that asks about a saved timeline.

    how: what runs the language model. ready_ms: bundle, timeline and language model opened. cold_ms, warm_ms, ahead_ms:
    from a question of ten words to its first token; nothing of the prompt in the KV cache, a question about the same
    media before, and the media read before it was asked. prompt_tokens: of the cold one. prefill_rate, decode_rate:
    positions per second, the second one by one. bytes_per_token: of weights and KV cache that one position reads.
    """

    how: str
    ready_ms: float
    prompt_tokens: int
    cold_ms: float
    warm_ms: float
    ahead_ms: float
    prefill_rate: float
    decode_rate: float
    bytes_per_token: int
    peak_bytes: int | None


@dataclass(frozen=True)
class Benchmark:
    """What was measured of one model."""

    model: str
    precision: dict[str, str]
    setup: Setup
    limits: Limits
    encoding: Encoding
    answering: Answering

    @property
    def index_speed(self) -> float:
        """Seconds of video indexed in one second, a picture a second and all of the sound."""
        return self.encoding.clip_seconds / self.encoding.index_seconds

    def share(self, stage: Stage) -> float | None:
        """Of the CPU's arithmetic that a step reaches, in the type that its graph computes in; None on a GPU."""
        if not stage.gflop or self.encoding.device != "cpu":
            return None
        int8 = stage.name in _ROUNDED and self.precision[GRAPHS[stage.name]] == "int8"
        limit = self.limits.int8_ops if int8 else self.limits.fp32_flops
        return stage.gflop * 1e9 / (stage.ms / 1000) / limit

    @property
    def decode_share(self) -> float | None:
        """Of the memory that the CPU can read what writing an answer reads; None with layers on a GPU."""
        if "GPU" in self.answering.how:
            return None
        return self.answering.decode_rate * self.answering.bytes_per_token / self.limits.read_bytes
