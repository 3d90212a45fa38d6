from __future__ import annotations

import errno
import os
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from vllama.cli import app
from vllama.runtime import errors
from vllama.runtime.errors import VllamaError

# What docs/commands.md and `vllama --help` say.
CODES = {
    "VllamaError": 1,
    "SpecError": 2,
    "ModelNotFoundError": 3,
    "FileError": 3,
    "MissingFileError": 3,
    "ChecksumError": 3,
    "DiskFullError": 7,
    "MediaError": 4,
    "DecodeError": 4,
    "DeviceError": 4,
    "BackendError": 5,
    "BackendUnavailableError": 5,
    "ShapeError": 5,
    "ContextOverflowError": 6,
}


def kinds(base: type[VllamaError] = VllamaError) -> list[type[VllamaError]]:
    """`base` and everything below it in errors.py."""
    below = [each for each in base.__subclasses__() if each.__module__ == errors.__name__]
    return [base, *(kind for each in below for kind in kinds(each))]


def test_table_has_every_error() -> None:
    assert sorted(kind.__name__ for kind in kinds()) == sorted(CODES)


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_error_is_one_line_on_stderr_and_its_exit_code(
    kind: type[VllamaError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**how: object) -> None:
        raise kind("clip.mp4: cannot\n  be used; choose another")

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(SystemExit) as left:
        app.main()
    assert left.value.code == CODES[kind.__name__]
    assert capsys.readouterr() == ("", "vllama: clip.mp4: cannot be used; choose another\n")


def test_bug_is_not_dressed_up_as_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**how: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(ZeroDivisionError):
        app.main()


@pytest.mark.parametrize(
    "error", [OSError("no number"), OSError(errno.ENOSPC, "full", "file"), OSError(errno.ENOENT, "gone")], ids=str
)
def test_what_the_system_says_of_other_things_than_output_is_a_bug(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**how: object) -> None:
        raise error

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(OSError) as raised:  # noqa: PT011 the very one
        app.main()
    assert raised.value is error


@pytest.mark.parametrize("system", ["win32", "linux"])
def test_windows_calls_a_pipe_that_nobody_reads_an_invalid_argument(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**how: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(app, "app", fail)
    with (tmp_path / "out").open("w") as out, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "platform", system)
        with pytest.raises(SystemExit if system == "win32" else OSError) as left:
            app.main()
    assert getattr(left.value, "code", None) == (1 if system == "win32" else None)
    assert capsys.readouterr().err == ""


def test_words_are_taken_as_they_are_on_windows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import_module("vllama.cli.demo")  # while files have their own names
    monkeypatch.setattr(sys, "argv", ["vllama", "demo", "$HOME"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        with pytest.raises(SystemExit):
            app.main()
    assert "'$HOME'" in capsys.readouterr().err


def test_help_lists_every_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["vllama", "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as left:
        app.main()
    assert left.value.code == 0
    said = capsys.readouterr().out.partition("Exit codes:")[2]
    assert {int(code) for code in re.findall(r"\b\d+\b", said)} == {0, 130, *CODES.values()}


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["ask"],
        ["export", "miniature"],
        ["ask", "--nonsense"],
        ["export", "m", "--weights", ".", "-t", "0"],
    ],
)
def test_wrong_usage_is_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vllama", *arguments])
    with pytest.raises(SystemExit) as left:
        app.main()
    assert left.value.code == 2
    out, said = capsys.readouterr()
    assert out == ""
    (line,) = said.splitlines()
    assert line.startswith("vllama: ")
    assert re.search(r"; see `vllama( \w+)? --help`$", line)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["ask", "a.mp4", "What?", "--temperature"], "temperature"),
        (["chat", "--fps"], "fps"),
        (["index", "a.mp4", "--fps"], "fps"),
        (["watch", "What?", "--fps"], "fps"),
    ],
)
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_number_that_is_not_finite_is_refused_by_every_command(
    words: list[str], option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vllama", *words, value])
    with pytest.raises(SystemExit) as left:
        app.main()
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--{option}" in line
    assert value in line


def test_version_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["vllama", "--version"])
    with pytest.raises(SystemExit) as left:
        app.main()
    assert left.value.code == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)
