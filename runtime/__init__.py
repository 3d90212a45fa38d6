"""Ask a video, its sound or a picture: the runtime of exported Video-LLaMA models, without torch."""

from . import environment as environment
from .capture.clock import Clock
from .capture.source import SourceStatus
from .chat import Chat
from .engine import Engine
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
from .live.live import Live, LiveStatus
from .live.live_chat import LiveChat
from .live.senses import PictureSource, SoundSource
from .live.watching import Score, Switch, YesNo
from .prompt import Turn
from .spec import ModelSpec, Sampling
from .timeline import Budget, Timeline
from .types import Delta, Embeds, Frame, Long, Samples, Span, Usage

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "Budget",
    "Chat",
    "ChecksumError",
    "Clock",
    "ContextOverflowError",
    "DecodeError",
    "Delta",
    "DeviceError",
    "DiskFullError",
    "Embeds",
    "Engine",
    "FileError",
    "Frame",
    "Live",
    "LiveChat",
    "LiveStatus",
    "Long",
    "MediaError",
    "MissingFileError",
    "ModelNotFoundError",
    "ModelSpec",
    "PictureSource",
    "Samples",
    "Sampling",
    "Score",
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
