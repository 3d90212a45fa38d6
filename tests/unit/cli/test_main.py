"""The streams of the command."""

from __future__ import annotations

import io
import json
import sys

import pytest

from vllama.cli.__main__ import _mend_streams

TEXT = "what does é \U0001f600 show?"


class _Console(io.BytesIO):
    def isatty(self) -> bool:
        return True


def mended(
    monkeypatch: pytest.MonkeyPatch, platform: str, kind: type[io.BytesIO] = io.BytesIO
) -> tuple[str, bytes, bytes]:
    """What is read of UTF-8, and what is written to stdout and stderr, of streams that begin in cp1252."""
    streams = {
        "stdin": io.TextIOWrapper(kind(TEXT.encode("utf-8")), "cp1252"),
        "stdout": io.TextIOWrapper(kind(), "cp1252"),
        "stderr": io.TextIOWrapper(kind(), "cp1252", errors="backslashreplace"),
    }
    with monkeypatch.context() as patch:
        for name, stream in streams.items():
            patch.setattr(sys, name, stream)
        patch.setattr(sys, "platform", platform)
        _mend_streams()
        read = sys.stdin.read()
        for written in (sys.stdout, sys.stderr):
            print(json.dumps(TEXT + "\udcff", ensure_ascii=False), file=written, flush=True)
    return read, streams["stdout"].buffer.getvalue(), streams["stderr"].buffer.getvalue()


def test_pipes_are_utf_8_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    read, *written = mended(monkeypatch, "win32")
    assert read == TEXT
    for data in written:
        assert json.loads(data.decode("utf-8")) == TEXT + "\udcff"


@pytest.mark.parametrize(("platform", "encoding"), [("win32", "cp1252"), ("linux", "utf-8"), ("linux", "UTF-8")])
def test_a_mark_in_front_of_what_is_piped_is_no_part_of_it(
    platform: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"\ufeff{TEXT}\n\ufeff".encode()), encoding))
    _mend_streams()
    assert sys.stdin.read() == f"{TEXT}\n\ufeff"


def test_an_encoding_that_is_asked_for_is_taken_on_windows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    assert b"\xe9 \\U0001f600" in mended(monkeypatch, "win32")[1]


@pytest.mark.parametrize(("platform", "kind"), [("win32", _Console), ("linux", io.BytesIO), ("darwin", io.BytesIO)])
def test_other_streams_keep_their_encoding(
    platform: str, kind: type[io.BytesIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    for data in mended(monkeypatch, platform, kind=kind)[1:]:
        assert b"\xe9 \\U0001f600" in data
