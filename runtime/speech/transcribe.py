"""Words from speech: a Whisper that the user has, on faster-whisper. Nothing is ever downloaded."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ..errors import BackendError, BackendUnavailableError, FileError, MissingFileError, SpecError
from ..files import check_permission
from ..types import Float32
from .voice_activity import INSTALL

if TYPE_CHECKING:
    import faster_whisper

_NEEDED = ("model.bin", "config.json", "tokenizer.json")  # without the last faster-whisper would ask the network for it
_FORM = "a Whisper in CTranslate2's format, a folder with model.bin, config.json, tokenizer.json and its vocabulary"


class Transcriber:
    """A Whisper, open on the CPU; use it from one thread at a time.

    Args:
        folder: of the model, in CTranslate2's format, as faster-whisper's are published.
        language: a code such as "en"; None: the model hears which one it is, less surely the shorter the speech.
        threads: CPU threads.

    Raises:
        BackendUnavailableError: faster-whisper is not installed.
        MissingFileError, FileError: there is no such model, or it cannot be read.
        SpecError: it does not know that language.
    """

    def __init__(self, folder: Path, *, language: str | None = None, threads: int = 1) -> None:
        library = _import_faster_whisper()
        _check(folder)
        try:
            self._model: faster_whisper.WhisperModel = library.WhisperModel(
                str(folder), device="cpu", compute_type="auto", cpu_threads=threads, local_files_only=True
            )
        except Exception as error:  # tokenizers raises nothing more special
            raise FileError(f"{folder}: not a usable speech model ({_one_line(error)}); use {_FORM}") from error
        self._folder = folder
        known = self._model.supported_languages
        if language is not None and language not in known:
            raise SpecError(f"{folder.name} does not know the language {language!r}; it knows {', '.join(known)}")
        self._language = language

    def words(self, sound: Float32) -> str:
        """What is said in float32 (n,), [-1, 1], at 16 kHz; "" where Whisper hears no words.

        One pass, without the second thoughts at higher temperatures that Whisper has about bad sound: a question should
        not take minutes.

        Raises:
            BackendError: it failed.
        """
        try:
            segments, _ = self._model.transcribe(
                sound, language=self._language, temperature=0.0, condition_on_previous_text=False,
                without_timestamps=True,
            )  # fmt: skip
            return " ".join("".join(segment.text for segment in segments).split())
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"{self._folder}: {_one_line(error)}; use another speech model") from error


def _check(folder: Path) -> None:
    """A name that is no folder would be looked up in the network."""
    if not os.path.isdir(folder):
        raise MissingFileError(f"{folder}: no such folder; the speech model is {_FORM}, and is never downloaded")
    check_permission(folder)
    missing = [name for name in _NEEDED if not os.path.isfile(folder / name)]
    missing += [] if list(folder.glob("vocabulary.*")) else ["vocabulary.json"]
    if missing:
        raise MissingFileError(f"{folder}: {', '.join(missing)} missing; the speech model is {_FORM}")


def _import_faster_whisper() -> ModuleType:
    try:
        import faster_whisper
    except ImportError as error:
        raise BackendUnavailableError(f"faster-whisper is not installed; {INSTALL}") from error
    module: ModuleType = faster_whisper
    return module


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
