"""Streams and disks that fail the command: output that cannot be written, streams that are closed, bytes that are no
text.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full, and streams that are closed")

Run = Callable[..., subprocess.CompletedProcess[str]]
MODEL = ("--model", "miniature", "--threads", "1")
SHORT = (*MODEL, "-n", "3")
BUFFERED = {"PYTHONUNBUFFERED": ""}  # what is printed last fails when Python ends, not when it is printed


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with as_file(files("vllama.cli").joinpath("demo_clips", "circle.mp4")) as path:
        return Path(shutil.copy(path, tmp_path_factory.mktemp("films")))


def full(*numbers: int) -> Callable[[], None]:
    """Sends streams to a disk that is full."""

    def send() -> None:
        for number in numbers:
            os.dup2(os.open("/dev/full", os.O_WRONLY), number)

    return send


def closed(*numbers: int) -> Callable[[], None]:
    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines on stderr but notes."""
    return [line for line in done.stderr.splitlines() if not line.startswith(("vllama: note: ", "saw "))]


@pytest.mark.parametrize(
    "words",
    [
        ("ask", "{film}", "What?", *SHORT),
        ("ask", "{film}", "What?", "--json", *SHORT),
        ("index", "{film}", *MODEL),
        ("index", "ls"),
        ("index", "ls", "--json"),
        ("plan", "--model", "miniature"),
        ("--version",),
        ("--help",),
    ],
    ids=" ".join,
)
def test_output_on_a_full_disk_is_one_line_and_7(vllama: Run, film: Path, words: tuple[str, ...]) -> None:
    if "ls" in words:
        assert vllama("index", film, *MODEL).returncode == 0
    done = vllama(*(word.format(film=film) for word in words), preexec_fn=full(1), env=BUFFERED)
    assert done.returncode == 7, done.stderr
    assert said(done) == ["vllama: the output cannot be written: No space left on device; free some space"]


def test_without_a_place_for_errors_the_exit_code_tells(vllama: Run, film: Path) -> None:
    assert vllama("plan", "--model", "miniature", preexec_fn=full(1, 2), env=BUFFERED).returncode == 7
    assert vllama("ask", film, preexec_fn=full(2), env=BUFFERED).returncode == 2


@pytest.mark.parametrize("words", [("plan", "--model", "miniature"), ("ask", "{film}", *"abcdef", "--json", *SHORT)])
def test_reader_that_has_seen_enough_is_told_nothing(vllama: Run, film: Path, words: tuple[str, ...]) -> None:
    def unread() -> None:
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.close(reading)

    done = vllama(*(word.format(film=film) for word in words), preexec_fn=unread, env=BUFFERED)
    assert (done.returncode, said(done)) == (1, [])


def test_closed_stdout_takes_nothing_and_says_nothing(vllama: Run, film: Path) -> None:
    done = vllama("ask", film, "What?", *SHORT, preexec_fn=closed(1))
    assert (done.returncode, said(done)) == (0, []), done.stderr
    assert "saw 8 frames" in done.stderr


def test_notes_do_not_go_to_stdout_where_stderr_is_closed(vllama: Run, film: Path) -> None:
    done = vllama("ask", film, "What?", *SHORT, preexec_fn=closed(2))
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)
    assert "note: " not in done.stdout
    assert "saw 8" not in done.stdout


def test_files_do_not_get_the_numbers_of_closed_streams(vllama: Run, film: Path, tmp_path: Path) -> None:
    cache = {"VLLAMA_CACHE": str(tmp_path)}
    assert vllama("index", film, *MODEL, env=cache, preexec_fn=closed(0, 1, 2)).returncode == 0
    (row,) = map(json.loads, vllama("index", film, *MODEL, "--json", env=cache).stdout.splitlines())
    assert (row["encoded"], row["frames"] > 8) == (0, True)


def test_closed_stdin_holds_no_question(vllama: Run, film: Path) -> None:
    for more in ((), ("-",)):
        done = vllama("ask", film, *more, *SHORT, preexec_fn=closed(0))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "vllama: stdin holds no question; pipe a line each\n"


def test_chat_ends_where_stdin_is_closed(vllama: Run, film: Path) -> None:
    done = vllama("chat", "--video", film, *SHORT, preexec_fn=closed(0))
    assert (done.returncode, done.stdout, said(done)) == (0, "", [])


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_bytes_of_stdin_that_are_no_text_are_asked_as_replacement_characters(
    vllama: Run, film: Path, errors: str, tmp_path: Path
) -> None:
    (tmp_path / "lines").write_bytes(b"What \xff?\n")
    for words in (("ask", film, "-"), ("chat", "--video", film)):
        with (tmp_path / "lines").open("rb") as lines:
            done = vllama(
                *words, *SHORT, "--json", stdin=lines, env={"PYTHONIOENCODING": f"utf-8:{errors}"}, encoding="utf-8"
            )
        assert (done.returncode, said(done)) == (0, [])
        assert json.loads(done.stdout)["question"] == "What \ufffd?"


def test_bytes_of_the_command_line_that_are_no_text_are_asked_as_replacement_characters(
    vllama: Run, film: Path
) -> None:
    done = vllama("ask", film, "What \udcff?", *SHORT, "--json", encoding="utf-8")
    assert (done.returncode, said(done)) == (0, [])
    assert json.loads(done.stdout)["question"] == "What \ufffd?"


def test_names_of_files_that_are_no_text_are_printed(vllama: Run, film: Path, tmp_path: Path) -> None:
    named = Path(shutil.copy(film, tmp_path / "film\udcff.mp4"))
    env = {"VLLAMA_CACHE": str(tmp_path / "cache"), "PYTHONIOENCODING": "utf-8:strict"}
    for words in ((named, *MODEL), (named, *MODEL, "--json"), ("ls",), ("ls", "--json"), ("show", named)):
        done = vllama("index", *words, env=env, encoding="utf-8")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        assert "film" in done.stdout
    (row,) = map(json.loads, vllama("index", "ls", "--json", env=env, encoding="utf-8").stdout.splitlines())
    assert row["path"] == str(named)


def test_pictures_and_talks_that_do_not_fit_leave_no_file_and_the_chat_goes_on(
    vllama: Run, film: Path, small_disk: Path
) -> None:
    (small_disk / "full").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize))
    sheet, talk = small_disk / "frames.png", small_disk / "talk.txt"
    lines = f"What?\n/frames {sheet}\n/save {talk}\nAnd?\n"
    done = vllama("chat", "--video", film, *SHORT, input=lines)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert said(done) == [f"vllama: {path}: no space left; free some and write it again" for path in (sheet, talk)]
    assert [path.name for path in small_disk.iterdir()] == ["full"]


def test_the_clip_that_is_talked_about_is_not_written_over(vllama: Run, film: Path, tmp_path: Path) -> None:
    clip = Path(shutil.copy(film, tmp_path / "mine.png"))
    done = vllama("chat", "--video", clip, *SHORT, input=f"What?\n/frames {clip}\nAnd?\n")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert said(done) == [f"vllama: {clip}: is there already; give a new .png or .jpg"]
    assert clip.read_bytes() == film.read_bytes()
