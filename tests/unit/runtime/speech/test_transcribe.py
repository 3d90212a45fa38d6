from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vllama.runtime.errors import BackendError, BackendUnavailableError, FileError, MissingFileError
from vllama.runtime.speech.transcribe import Transcriber

pytest.importorskip("faster_whisper", reason="needs the extra `speech`")
from tests.live.tiny_whisper import write_tiny_whisper

NOISE = (0.1 * np.random.default_rng(0).standard_normal(32000)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_whisper(tmp_path / "whisper", "What do you hear?")


def test_words_are_what_the_model_says(folder: Path) -> None:
    transcriber = Transcriber(folder)
    assert transcriber.words(NOISE) == "What do you hear?"
    assert transcriber.words(NOISE[:4000]) == "What do you hear?"


def test_nothing_is_looked_up_in_the_network(folder: Path) -> None:
    code = f"""
import sys
seen = []
sys.addaudithook(lambda event, arguments: seen.append((event, arguments)) if event.startswith("socket.") else None)
import numpy as np
from pathlib import Path
from vllama.runtime import VllamaError
from vllama.runtime.speech.transcribe import Transcriber
print(Transcriber(Path({str(folder)!r})).words(np.zeros(16000, np.float32)))
for name in ("tiny", "Systran/faster-whisper-tiny"):
    try:
        Transcriber(Path(name))
    except VllamaError as error:
        print(error)
(Path({str(folder)!r}) / "tokenizer.json").unlink()
try:
    Transcriber(Path({str(folder)!r}))
except VllamaError as error:
    print(error)
print([each for each in seen if each[0] in ("socket.connect", "socket.getaddrinfo", "socket.sendto")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    words, tiny, published, incomplete, sockets = done.stdout.splitlines()
    assert words == "What do you hear?"
    assert tiny.startswith("tiny: no such folder; the speech model is ")
    assert published.startswith(f"{Path('Systran/faster-whisper-tiny')}: no such folder")
    assert "tokenizer.json missing" in incomplete
    assert sockets == "[]"


@pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json", "vocabulary.json"])
def test_a_folder_that_lacks_a_file_is_one_line(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(MissingFileError, match=f"{name} missing; the speech model is a Whisper in CTranslate2"):
        Transcriber(folder)


@pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json"])
def test_a_damaged_file_is_one_line(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:40])
    with pytest.raises(FileError, match="not a usable speech model") as caught:
        Transcriber(folder)
    assert "\n" not in str(caught.value)


def test_a_model_that_takes_other_features_is_one_line(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"feature_size": 128}')
    with pytest.raises(BackendError, match="use another speech model"):
        Transcriber(folder).words(NOISE)


def test_without_the_extra_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    install = re.escape('install the extra `speech` (`pip install ".[speech]"` in vllama\'s checkout)')
    with pytest.raises(BackendUnavailableError, match=f"^faster-whisper is not installed; {install}$"):
        Transcriber(folder)
