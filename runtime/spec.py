"""What a model is: the fields of an entry of models.toml, which `registry` reads."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, PositiveFloat, PositiveInt

from .errors import SpecError
from .types import Long, is_whole

_CHECKED = ConfigDict(extra="forbid", str_strip_whitespace=False)
MOST_TOKENS = 2**31 - 1  # llama.cpp counts in 32 bits
Triple = tuple[float, float, float]


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError) as error:
        raise ValueError(f"not a regular expression ({error})") from error
    return text


@dataclass(frozen=True)
class WeightFile:
    """A published file or folder: the name people have it under in --weights, and where it comes from, in words.

    ignored: a regular expression; keys that no part of the model has are left out where all of the key matches.
    """

    __pydantic_config__ = _CHECKED
    name: Annotated[str, Field(pattern=r"^[^/\\]")]
    source: str = ""
    ignored: Annotated[str, AfterValidator(_regular_expression)] = ""


@dataclass(frozen=True)
class PixelNormalise:
    """(pixel / 255 - mean) / std, per RGB channel."""

    __pydantic_config__ = _CHECKED
    mean: Triple
    std: Triple


@dataclass(frozen=True)
class VisionEncoder:
    """EVA-CLIP vision transformer; depth counts the blocks that are used, the file may hold more."""

    __pydantic_config__ = _CHECKED
    patch_size: PositiveInt
    hidden_size: PositiveInt
    depth: PositiveInt
    num_heads: PositiveInt
    intermediate_size: PositiveInt


@dataclass(frozen=True)
class Qformer:
    """A BERT-like transformer whose learned queries attend to encoder tokens.

    cross_attention_every: layers 0, n, 2n, ... have cross-attention.
    """

    __pydantic_config__ = _CHECKED
    query_tokens: PositiveInt
    layers: PositiveInt
    hidden_size: PositiveInt = 768
    num_heads: PositiveInt = 12
    intermediate_size: PositiveInt = 3072
    cross_attention_every: PositiveInt = 1


@dataclass(frozen=True)
class VideoQformer(Qformer):
    """max_frames: rows of the frame-position table."""

    max_frames: PositiveInt = 32


@dataclass(frozen=True)
class AudioQformer(Qformer):
    """max_clips: rows of the clip-position table."""

    max_clips: PositiveInt = 8


@dataclass(frozen=True)
class VideoFiles:
    """The files of the picture side that all variants share."""

    __pydantic_config__ = _CHECKED
    encoder: WeightFile
    qformer: WeightFile


@dataclass(frozen=True)
class VideoSpec:
    """Pictures: preprocessing, encoder, image Q-former per frame, video Q-former."""

    __pydantic_config__ = _CHECKED
    num_frames: PositiveInt
    image_size: PositiveInt
    normalise: PixelNormalise
    encoder: VisionEncoder
    qformer: Qformer
    video_qformer: VideoQformer
    files: VideoFiles

    @property
    def patches(self) -> int:
        """Of one picture."""
        return (self.image_size // self.encoder.patch_size) ** 2


@dataclass(frozen=True)
class FbankFrame:
    """The analysis window of the filterbank."""

    __pydantic_config__ = _CHECKED
    length_ms: PositiveFloat
    shift_ms: PositiveFloat
    window: Literal["hanning"]


@dataclass(frozen=True)
class FbankNormalise:
    """(log mel - mean) / std."""

    __pydantic_config__ = _CHECKED
    mean: float
    std: PositiveFloat


@dataclass(frozen=True)
class AudioEncoder:
    """ImageBind audio trunk: one vector of output_size per clip."""

    __pydantic_config__ = _CHECKED
    hidden_size: PositiveInt
    depth: PositiveInt
    num_heads: PositiveInt
    intermediate_size: PositiveInt
    kernel_size: PositiveInt
    stride: PositiveInt
    output_size: PositiveInt


@dataclass(frozen=True)
class AudioFiles:
    """The file of the sound side that all variants share."""

    __pydantic_config__ = _CHECKED
    encoder: WeightFile


@dataclass(frozen=True)
class AudioSpec:
    """Sound: preprocessing, encoder per clip, audio Q-former."""

    __pydantic_config__ = _CHECKED
    sample_rate: PositiveInt
    num_clips: PositiveInt
    clip_seconds: PositiveFloat
    num_mel_bins: PositiveInt
    target_length: PositiveInt
    frame: FbankFrame
    normalise: FbankNormalise
    encoder: AudioEncoder
    audio_qformer: AudioQformer
    files: AudioFiles

    @property
    def patches(self) -> int:
        """Of one filterbank; they overlap."""
        sides = (self.num_mel_bins, self.target_length)
        return math.prod((side - self.encoder.kernel_size) // self.encoder.stride + 1 for side in sides)


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Order: repetition penalty, temperature, top-k, top-p.

    temperature: 0 or more; below 1e-5 takes the most likely token. top_p: above 0, at most 1. top_k: 0 keeps all.
    max_tokens: at least 1. repetition_penalty: 0.001 to 1000.

    Raises:
        SpecError: a value is out of its range, or NaN.
    """

    __pydantic_config__ = _CHECKED
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    repetition_penalty: float = 1.0

    @classmethod
    def greedy(cls, max_tokens: int) -> Sampling:
        """Always the most likely token."""
        return cls(temperature=0.0, top_p=1.0, top_k=0, max_tokens=max_tokens)

    def __post_init__(self) -> None:
        for name, is_right, use in (
            ("temperature", 0 <= self.temperature < math.inf, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "more than 0, and at most 1"),
            ("top_k", is_whole(self.top_k) and 0 <= self.top_k <= MOST_TOKENS, f"0 to {MOST_TOKENS}"),
            ("max_tokens", is_whole(self.max_tokens) and 1 <= self.max_tokens <= MOST_TOKENS, f"1 to {MOST_TOKENS}"),
            ("repetition_penalty", 0.001 <= self.repetition_penalty <= 1000, "0.001 to 1000"),
        ):
            if not is_right:
                raise SpecError(f"{name} is {getattr(self, name)}; use {use}")


@dataclass(frozen=True)
class LlmDimensions:
    """What the published config.json says: `vllama plan` reckons with it, and an export refuses a folder that says
    otherwise."""

    __pydantic_config__ = _CHECKED
    num_layers: PositiveInt
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    intermediate_size: PositiveInt
    vocab_size: PositiveInt


@dataclass(frozen=True)
class LlmSpec:
    """The language model; an export reads its other dimensions in the config.json of its folder.

    long: how it is shown a span that its frames do not cover, where a question does not say; None: as a memory. kv: how
    its KV cache is stored where nothing is said; None: as f16.
    """

    __pydantic_config__ = _CHECKED
    architecture: Literal["llama"]
    hidden_size: PositiveInt
    n_ctx: PositiveInt
    quantization: str
    sampling: Sampling
    long: Long | None = None
    kv: Literal["f16", "q8_0"] | None = None
    dimensions: LlmDimensions | None = None


@dataclass(frozen=True)
class PromptSpec:
    """How turns become a prompt.

    first: {system} {message}, answer: {answer}, next: {message}. `<s>` and `</s>` in these templates are the
    control tokens, never in what a user types. stop: strings that end an answer, beside the end token.
    keep_after: what an answer says up to the last such mark is dropped, as upstream does.
    """

    __pydantic_config__ = _CHECKED
    first: str
    answer: str
    next: str
    stop: tuple[str, ...]
    keep_after: str


@dataclass(frozen=True)
class MediaTexts:
    """One text per kind of media that a turn brings."""

    __pydantic_config__ = _CHECKED
    video: str
    audio_video: str
    image: str
    audio: str
    text: str


@dataclass(frozen=True)
class MessageSpec:
    """What stands around the media of a turn.

    message: {video} and {audio} are where the embeds go; {num_frames}, {seconds} and {question} are text. {question}
    is the last of them: the pieces of a long clip take the place of what is before it.
    """

    __pydantic_config__ = _CHECKED
    system: MediaTexts
    message: MediaTexts


@dataclass(frozen=True)
class ModelFiles:
    """The files that differ between variants; llm is a folder, or llm_base + llm_delta where it was not merged.

    llm_delta_whole: HF names of the tensors that the delta holds whole; nothing is added to them.
    """

    __pydantic_config__ = _CHECKED
    vl: WeightFile
    llm: WeightFile
    al: WeightFile | None = None
    llm_base: WeightFile | None = None
    llm_delta: WeightFile | None = None
    llm_delta_whole: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """One entry of models.toml with its parts; audio is None where no audio branch was published."""

    __pydantic_config__ = _CHECKED
    name: str
    source: str
    weights: str
    license: str
    video: VideoSpec
    llm: LlmSpec
    prompt: PromptSpec
    messages: MessageSpec
    files: ModelFiles
    audio: AudioSpec | None = None
