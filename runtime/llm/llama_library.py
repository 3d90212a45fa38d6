"""llama.cpp as a library: loaded once, of one version, with its log kept."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections import deque
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from ..errors import BackendUnavailableError

os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # read when ggml fails a check, which would start a debugger

VERSION = "0.3.36"  # its structs and constants change: a field that another version lacks would be set in silence
_ERROR = 4
_log: deque[str] = deque(maxlen=32)


@functools.cache
def load_library() -> ModuleType:
    """llama-cpp-python's bindings, with their log kept here.

    Raises:
        BackendUnavailableError: they cannot be loaded, or are of another version.
    """
    try:
        import llama_cpp.llama_cpp as library

        found = version("llama-cpp-python")
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            f"llama-cpp-python cannot be loaded: {error}; install it: `pip install llama-cpp-python=={VERSION}`"
        ) from error
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise BackendUnavailableError(
            f"llama-cpp-python cannot be loaded: {error}; install what it was built for, such as NVIDIA's driver, or "
            f"build it again: `pip install --force-reinstall --no-deps --no-cache-dir llama-cpp-python=={VERSION}`"
        ) from error
    if found.partition("+")[0] != VERSION:  # a build may have a name of its own after it
        raise BackendUnavailableError(
            f"llama-cpp-python is {found} and vllama takes {VERSION}; install that: "
            f"`pip install llama-cpp-python=={VERSION}`, for a GPU as in docs/llm.md"
        )
    library.llama_log_set(_log_callback(library), None)
    _ggml_of(library).ggml_set_abort_callback(_abort_callback())
    library.llama_backend_init()
    return library


@functools.cache
def _log_callback(library: ModuleType) -> object:
    """Referenced for ever, because llama.cpp may log at any time; nothing reaches stderr."""

    def keep(level: int, text: bytes, _: object) -> None:
        if level == _ERROR:
            _log.append(text.decode("utf-8", "replace").strip())

    return library.llama_log_callback(keep)


@functools.cache
def _abort_callback() -> object:
    """Referenced for ever. Where ggml ends the process, as CUDA does without memory, why: its log would end with it."""

    def tell(message: bytes) -> None:
        said = " ".join("; ".join([*_log, message.decode("utf-8", "replace")]).split())
        print(f"vllama: llama.cpp has to end here: {said}", file=sys.stderr, flush=True)

    return ctypes.CFUNCTYPE(None, ctypes.c_char_p)(tell)


def _ggml_of(library: ModuleType) -> ctypes.CDLL:
    """The ggml that llama.cpp itself uses, so that settings of the whole process reach it."""
    handle: ctypes.CDLL = load_ggml_base() if os.name == "nt" else library._lib
    return handle


def load_ggml_base() -> ctypes.CDLL:
    """ggml-base, which has the functions of single devices and types; Windows exports them from no other DLL."""
    import llama_cpp
    from llama_cpp._ctypes_extensions import load_shared_library

    base: ctypes.CDLL = load_shared_library("ggml-base", Path(llama_cpp.__file__).parent / "lib")
    return base


def forget_log() -> None:
    """Begin the log anew."""
    _log.clear()


def first_error() -> str:
    """The log's most telling line since it was cleared; those after it say that loading failed."""
    return _log[0] if _log else "it gives no reason"


def out_of_memory() -> bool:
    """Whether the log since it was cleared tells of memory that could not be had."""
    return any("alloc" in line or "out of memory" in line for line in _log)
