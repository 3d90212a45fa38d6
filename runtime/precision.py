"""How exactly the encoders are stored, and what their graphs take then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from .errors import SpecError
from .spec import AudioSpec, ModelSpec, Qformer, VideoSpec

Precision = Literal["fp32", "fp16", "int8", "w8a16"]
Form = Literal["matrix", "double", "small", "kernel", "scale", "other"]
# Bytes of a weight. double: matrices that int8 rounds twice; small: those of the two graphs of a question, which int8
# stores as halves; kernel: of a convolution; scale: of a column in 8 bits; other: norms, biases and tables.
_BYTES: dict[Precision, dict[Form, int]] = {
    "fp32": {"matrix": 4, "double": 4, "small": 4, "kernel": 4, "scale": 0, "other": 4},
    "fp16": {"matrix": 2, "double": 2, "small": 2, "kernel": 2, "scale": 0, "other": 4},
    "w8a16": {"matrix": 1, "double": 1, "small": 1, "kernel": 2, "scale": 2, "other": 4},
    "int8": {"matrix": 1, "double": 2, "small": 2, "kernel": 4, "scale": 4, "other": 4},
}
Weights = Iterator[tuple[Form, int]]  # (what it is, how many)


def check_precision(name: str) -> Precision:
    """The name, if it is that of a precision.

    Raises:
        SpecError: it is not.
    """
    known: tuple[Precision, ...] = get_args(Precision)
    for each in known:
        if name == each:
            return each
    raise SpecError(f"precision {name!r} is not known; use one of {', '.join(known)}")


def suits_gpus(precision: str) -> bool:
    """Whether graphs of that precision are for GPUs: int8 ones are for CPUs."""
    return precision != "int8"


def feature_dtype(precision: str) -> str:
    """How the features of such encoders are kept."""
    return "float32" if precision == "fp32" else "float16"


def graph_bytes(spec: ModelSpec, precision: Precision) -> dict[str, int]:
    """About what the files of each graph take that an export makes: its weights."""
    sizes, width = _BYTES[precision], spec.llm.hidden_size
    graphs = {"frames": _frames(spec.video), "video": _video(spec.video, width)}
    if spec.audio is not None:
        graphs |= {"clips": _clips(spec.audio), "audio": _audio(spec.audio, width)}
    return {name: sum(sizes[form] * count for form, count in weights) for name, weights in graphs.items()}


def _frames(video: VideoSpec) -> Weights:
    vision = video.encoder
    width = vision.hidden_size
    yield "kernel", 3 * vision.patch_size**2 * width
    yield "other", width * (video.patches + 5)  # its bias, the class token, positions, the norm at the end
    yield from _blocks(vision.depth, width, vision.intermediate_size, "matrix")
    yield from _qformer(video.qformer, width, "double")


def _clips(audio: AudioSpec) -> Weights:
    sound = audio.encoder
    width = sound.hidden_size
    yield "kernel", sound.kernel_size**2 * width
    yield "other", width * (audio.patches + 6)  # the norm of the patches, the class token, positions, the last norm
    yield from _blocks(sound.depth, width, sound.intermediate_size, "matrix")
    yield "other", 2 * sound.depth * width  # a key and a value of its own
    yield "matrix", width * sound.output_size


def _video(video: VideoSpec, llm_width: int) -> Weights:
    yield from _qformer(video.video_qformer, video.qformer.hidden_size, "small")
    yield from _linear(video.video_qformer.hidden_size, llm_width, "small")


def _audio(audio: AudioSpec, llm_width: int) -> Weights:
    yield from _qformer(audio.audio_qformer, audio.encoder.output_size, "small")
    yield from _linear(audio.audio_qformer.hidden_size, llm_width, "small")


def _blocks(depth: int, width: int, inner: int, form: Form) -> Weights:
    """Of a transformer: attention, MLP and the norms before them."""
    for _ in range(depth):
        yield from _linear(width, 3 * width, form)
        yield from _linear(width, width, form)
        yield from _linear(width, inner, form)
        yield from _linear(inner, width, form)
        yield "other", 4 * width


def _qformer(qformer: Qformer, source_width: int, form: Form) -> Weights:
    """Of BERT layers: attention among the queries, to what is looked at, MLP, and the norm behind each."""
    width = qformer.hidden_size
    yield "other", width * (qformer.query_tokens + 2)
    for layer in range(qformer.layers):
        crosses = layer % qformer.cross_attention_every == 0
        for source in (width, source_width)[: 1 + crosses]:
            yield from _linear(width, 2 * width, form)  # of the queries, and of what comes out
            yield from _linear(source, 2 * width, form)
            yield "other", 2 * width
        yield from _linear(width, qformer.intermediate_size, form)
        yield from _linear(qformer.intermediate_size, width, form)
        yield "other", 2 * width


def _linear(rows: int, columns: int, form: Form) -> Weights:
    yield form, rows * columns
    yield "other", columns  # its bias
    if form != "small":
        yield "scale", columns * (2 if form == "double" else 1)
