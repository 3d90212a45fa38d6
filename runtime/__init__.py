"""Ask a video, its sound or a picture: the runtime of exported Video-LLaMA models, without torch."""

from . import environment as environment
from .capture.clock import Clock
from .capture.source import SourceStatus
from .chat import Chat
from .engine import Engine, GpuLayers
from .errors import (
    BackendError,
    BackendUnavailableError,
    ChecksumError,
    ContextOverflowError,
    DecodeError,
    DeviceError,
    DiskFullError,
    FileError,
    MediaError,
    MissingFileError,
    ModelNotFoundError,
    ShapeError,
    SpecError,
    VllamaError,
)
from .live.live import Live, LiveStatus, Sense
from .live.live_chat import LiveChat
from .live.senses import PictureSource, SoundSource
from .live.watching import Score, Switch, YesNo
from .llm.llama_context import Kv
from .prompt import Turn
from .spec import ModelSpec, Sampling
from .timeline import Budget, ClipFeature, FrameFeature, Timeline
from .types import Delta, Embeds, Finish, Frame, Long, Modality, Samples, Span, Usage

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "Budget",
    "Chat",
    "ChecksumError",
    "ClipFeature",
    "Clock",
    "ContextOverflowError",
    "DecodeError",
    "Delta",
    "DeviceError",
    "DiskFullError",
    "Embeds",
    "Engine",
    "FileError",
    "Finish",
    "Frame",
    "FrameFeature",
    "GpuLayers",
    "Kv",
    "Live",
    "LiveChat",
    "LiveStatus",
    "Long",
    "MediaError",
    "MissingFileError",
    "Modality",
    "ModelNotFoundError",
    "ModelSpec",
    "PictureSource",
    "Samples",
    "Sampling",
    "Score",
    "Sense",
    "ShapeError",
    "SoundSource",
    "SourceStatus",
    "Span",
    "SpecError",
    "Switch",
    "Timeline",
    "Turn",
    "Usage",
    "VllamaError",
    "YesNo",
]
