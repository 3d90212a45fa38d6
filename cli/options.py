"""Options that several commands share, each written once."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vllama.runtime import Budget, Engine, MediaError, Sampling, Span, SpecError, types
from vllama.runtime.bundle import SHIPPED
from vllama.runtime.engine import GpuLayers as GpuLayersValue
from vllama.runtime.llm.backbone import MAX_N_CTX
from vllama.runtime.llm.llama_context import Kv
from vllama.runtime.spec import MOST_TOKENS
from vllama.runtime.times import make_span

from .render import verifying_bar
from .say import say

Model = Annotated[
    str | None, typer.Option("--model", "-m", envvar="VLLAMA_MODEL", help="A bundle: its name or its folder.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per question.")]
Temperature = Annotated[float | None, typer.Option(min=0.0, help="0 takes the most likely token.")]
TopP = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Keep the likeliest tokens up to this sum.")]
TopK = Annotated[int | None, typer.Option(min=0, max=MOST_TOKENS, help="Keep this many likeliest tokens; 0 keeps all.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Sampling seed: the same seed repeats an answer.")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", "-n", min=1, max=MOST_TOKENS, help="Length of an answer.")
]
CtxSize = Annotated[
    int | None, typer.Option("--ctx-size", "-c", min=2, max=MAX_N_CTX, help="Positions of the context.")
]
Threads = Annotated[int | None, typer.Option("--threads", "-t", min=1, envvar="VLLAMA_THREADS", help="CPU threads.")]
GpuLayers = Annotated[
    Any,
    typer.Option(
        "--gpu-layers", metavar="auto|N|all", envvar="VLLAMA_GPU_LAYERS", parser=lambda text: gpu_layers(text),
        help="How much of the language model is on the GPU, its output as one layer; auto: as much as fits.",
    ),
]  # fmt: skip
KvCache = Annotated[
    Literal["f16", "q8_0"] | None,
    typer.Option("--kv", help="How the KV cache is stored: q8_0 takes half the memory. Default: the model's."),
]
Audio = Annotated[bool, typer.Option("--audio/--no-audio", help="Listen to the sound of the clip.")]
Device = Annotated[
    str, typer.Option(envvar="VLLAMA_DEVICE", help="For the encoders: cpu, cuda or cuda:N; auto: a GPU where it can.")
]
Runner = Annotated[
    str,
    typer.Option(
        "--engine", envvar="VLLAMA_ENGINE", help="For the encoders: onnx or tensorrt; auto: what suits the device."
    ),
]
From = Annotated[str | None, typer.Option("--from", help="Ask about what follows this time: 62, 1:02, 1m2s.")]
To = Annotated[str | None, typer.Option("--to", help="Ask about what comes before this time.")]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        help="Ask about a moment, 1:02, and the seconds before it; with a memory (--long), all that led up to it.",
    ),
]
Last = Annotated[str | None, typer.Option("--last", help="Ask about the end of the clip: 30s.")]
Long = Annotated[
    types.Long | None,
    typer.Option(
        "--long", help="How to look at a long span; default: 8 frames where they cover it, else the model's own way."
    ),
]
Summarise = Annotated[
    bool,
    typer.Option("--summarise", help="When the context is full, let a summary take the place of the oldest turns."),
]
Record = Annotated[
    Path | None,
    typer.Option("--record", readable=False, help="Write all that an answer was made of, for `vllama replay`."),
]
Webcam = Annotated[
    str | None,
    typer.Option(
        "--webcam", metavar="SOURCE", help="A camera (number, name or device), the address of a stream, or a file."
    ),
]
Mic = Annotated[str | None, typer.Option("--mic", metavar="DEVICE", help="A microphone: its number or name.")]
Window = Annotated[str | None, typer.Option("--window", help="How far back a live question looks; default: 10s.")]
Speech = Annotated[bool, typer.Option("--speech", help="Ask by speaking into the microphone.")]
SpeechModel = Annotated[
    Path | None,
    typer.Option(
        "--speech-model", metavar="DIR", envvar="VLLAMA_SPEECH_MODEL", readable=False,
        help="A Whisper in CTranslate2's format, for --speech and /talk.",
    ),
]  # fmt: skip
SpeechLanguage = Annotated[
    str | None, typer.Option("--speech-language", metavar="CODE", help="What is spoken: en; default: the model hears.")
]
Aloud = Annotated[bool, typer.Option("--aloud", help="Read answers aloud, with the system's voice.")]
Headphones = Annotated[bool, typer.Option("--headphones", help="The microphone cannot hear what is read aloud.")]
Memory = Annotated[
    str | None, typer.Option("--memory", help="Memory for what was seen and heard live; default: 256MB.")
]

_NO_TEXT = re.compile("[\ud800-\udfff]")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)(i?)b?", re.IGNORECASE)
LIVE_FPS = 4.0


@dataclass(frozen=True)
class Sources:
    """A camera, a microphone or both, and how they are followed. window: `Span.last`."""

    camera: str | None
    microphone: str | None
    window: Span
    budget: Budget
    fps: float


def live(
    webcam: str | None, mic: str | None, window: str | None, memory: str | None, fps: float | None
) -> Sources | None:
    """What the options of live sources say; None where there is neither.

    Raises:
        SpecError: one of them makes no sense.
    """
    if webcam is None and mic is None:
        return None
    span = make_span(last="10s" if window is None else window)
    budget = Budget(bytes=file_size("256MB" if memory is None else memory))
    return Sources(webcam, mic, span, budget, LIVE_FPS if fps is None else fps)


def open_engine(
    model: str | None,
    device: str,
    runner: str,
    threads: int | None,
    gpu_layers: GpuLayersValue = "auto",
    kv: Kv | None = None,
    ctx_size: int | None = None,
    *,
    answers: bool = True,
) -> Engine:
    """The engine of a command, with a bar while its files are verified for the first time."""
    with verifying_bar() as verifying:
        return Engine.open(
            model, device=device, runner=runner, threads=threads, n_ctx=ctx_size, gpu_layers=gpu_layers, kv=kv,
            answers=answers, note=note, progress=verifying,
        )  # fmt: skip


def file_size(text: str) -> int:
    """Bytes, of 256MB, 1.5GB or 64MiB.

    Raises:
        SpecError: it is no such thing, or has no unit.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise SpecError(f"{text!r} is not a size; write 256MB, 1.5GB or 64MiB")
    if text.strip()[-1].isdigit() and float(found[1]):
        raise SpecError(f"{text!r} has no unit; write {found[1]}MB or {found[1]}GB")
    power = " kmg".index(found[2].lower() or " ")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def clip(text: str) -> Path:
    """What names a clip, or a folder of them.

    Raises:
        MediaError: it is empty, which would be the folder at hand.
    """
    if not text:
        raise MediaError("the clip's name is empty; give a video, a sound file or a picture")
    return Path(text)


def question(text: str) -> str:
    """What is asked, clean.

    Raises:
        SpecError: it is nothing.
    """
    if not text.strip():
        raise SpecError("the question is empty; write one")
    return clean(text)


def clean(text: str) -> str:
    """With U+FFFD in place of what is not text: bytes of the command line or a terminal that are not UTF-8."""
    return _NO_TEXT.sub("\ufffd", text)


def gpu_layers(text: str) -> GpuLayersValue:
    """What --gpu-layers says.

    Raises:
        SpecError: it is no number of layers.
    """
    if text == "auto":
        return "auto"
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise SpecError(f"--gpu-layers is {text!r}; use auto, all, or a number of layers")
    return int(text)


@dataclass(frozen=True)
class SamplingOptions:
    """What the options say about sampling; None: nothing.

    Raises:
        SpecError: --top-p 0.
    """

    temperature: float | None
    top_p: float | None
    top_k: int | None
    max_tokens: int | None

    def __post_init__(self) -> None:
        if self.top_p == 0.0:
            raise SpecError("--top-p is 0, which keeps no token; use a value above 0, or --temperature 0")

    def over(self, defaults: Sampling) -> Sampling:
        """A model's defaults with that."""
        given: dict[str, Any] = {name: value for name, value in vars(self).items() if value is not None}
        return replace(defaults, **given)


def say_if_miniature(engine: Engine) -> None:
    """Say what the miniature is, to whoever expects more of it."""
    if engine.spec.name == SHIPPED:
        note("the miniature answers, which knows only coloured shapes and simple sounds; `vllama export` makes others")


def note(text: str) -> None:
    """What a person should know beside the answer, to stderr."""
    say(f"note: {text}")
