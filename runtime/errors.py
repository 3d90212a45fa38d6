"""Everything vllama raises.

    VllamaError
    |-- SpecError                  models.toml, an option or an argument is wrong
    |   `-- ModelNotFoundError     no model entry, or no bundle, of that name
    |-- FileError                  a checkpoint or bundle file is unusable
    |   |-- MissingFileError       it is not there
    |   |-- ChecksumError          its bytes are not those the manifest lists
    |   `-- DiskFullError          writing it ran out of space
    |-- MediaError                 a clip cannot be used
    |   |-- DecodeError            it, or one of its streams, cannot be decoded
    |   `-- DeviceError            a camera or microphone cannot be used
    |-- BackendError               ONNX Runtime, TensorRT or llama.cpp failed
    |   |-- BackendUnavailableError  it is not installed, or cannot run here
    |   `-- ShapeError             an array does not have the shape a graph or the LLM expects
    `-- ContextOverflowError       the conversation does not fit n_ctx

A message says what, shows the value, and says what to do next, in one line without a trailing stop.
"""


def extra(name: str) -> str:
    """An optional part in a message, with how to get it: the `vllama` of the public index is another project."""
    return f'the extra `{name}` (`pip install ".[{name}]"` in vllama\'s checkout)'


class VllamaError(Exception):
    """Base of everything vllama raises."""


class SpecError(VllamaError):
    """models.toml, an option or an argument is wrong."""


class ModelNotFoundError(SpecError):
    """No model entry, or no bundle, of that name."""


class FileError(VllamaError):
    """A checkpoint or bundle file is unusable."""


class MissingFileError(FileError):
    """A file that is needed is not there."""


class ChecksumError(FileError):
    """The bytes of a file are not those that the manifest lists."""


class DiskFullError(FileError):
    """Writing a file ran out of space."""


class MediaError(VllamaError):
    """A clip cannot be used."""


class DecodeError(MediaError):
    """A clip, or one of its streams, cannot be decoded."""


class DeviceError(MediaError):
    """A camera or microphone cannot be used."""


class BackendError(VllamaError):
    """ONNX Runtime, TensorRT or llama.cpp failed."""


class BackendUnavailableError(BackendError):
    """A backend is not installed, or cannot run on this machine."""


class ShapeError(BackendError):
    """An array does not have the shape that a graph or the LLM expects."""


class ContextOverflowError(VllamaError):
    """The conversation does not fit the context."""
