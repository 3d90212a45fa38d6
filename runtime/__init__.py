"""Ask a video, its sound or a picture: the runtime of exported Video-LLaMA models, without torch."""

from . import environment as environment
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
from .spec import ModelSpec, Sampling
from .timeline import Budget, Timeline
from .types import Delta, Embeds, Frame, Samples, Span, Usage

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "Budget",
    "Chat",
    "ChecksumError",
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
    "MediaError",
    "MissingFileError",
    "ModelNotFoundError",
    "ModelSpec",
    "Samples",
    "Sampling",
    "ShapeError",
    "Span",
    "SpecError",
    "Timeline",
    "Usage",
    "VllamaError",
]
