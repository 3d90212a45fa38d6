"""`vllama watch` on a network camera of this machine's own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.live.mjpeg import MjpegServer
from tests.live.process import Running
from vllama.cli.app import app
from vllama.runtime import SpecError

MODEL = ("--model", "miniature", "--threads", "2")
QUESTION = "Is there a red circle?"
FAST = ("--every", "0.5s", "--window", "2s")


@pytest.fixture(scope="module")
def films() -> Iterator[tuple[Path, Path]]:
    """One with a red circle, one without."""
    folder = files("vllama.cli").joinpath("demo_clips")
    with as_file(folder.joinpath("circle.mp4")) as circle, as_file(folder.joinpath("square.mp4")) as square:
        yield circle, square


@pytest.fixture
def camera(films: tuple[Path, Path]) -> Iterator[MjpegServer]:
    with MjpegServer(films[1]) as server:
        yield server


def test_each_change_is_a_line_rings_and_runs_the_command(
    camera: MjpegServer, films: tuple[Path, Path], home: Path, tmp_path: Path
) -> None:
    noted = tmp_path / "noted"
    write = f"{sys.executable} -c \"import os; open({str(noted)!r}, 'a').write(os.environ['VLLAMA_STATE'] + ' ' + \
os.environ['VLLAMA_YES'] + ' ' + os.environ['VLLAMA_QUESTION'] + chr(10))\""
    arguments = ("watch", QUESTION, "--webcam", camera.url, *FAST, "--command", write, "--bell", *MODEL)
    with Running(*arguments, home=home) as watch:
        watch.until("the miniature answers")
        time.sleep(2.0)
        assert watch.out == []
        camera.show(films[0])
        on = json.loads(watch.answers(1)[0])
        camera.show(films[1])
        off = json.loads(watch.answers(2)[1])
        while not noted.exists() or noted.read_text().count("\n") < 2:
            time.sleep(0.05)
        watch.interrupt()
        assert watch.end() == 130
        assert ("".join(watch.err).count("\a"), "".join(watch.out).count("\a")) == (1, 0)
    assert (on["state"], off["state"]) == ("on", "off")
    assert on["yes"] >= 0.6 > 0.4 >= off["yes"]
    assert on["question"] == QUESTION
    assert on["answer"].startswith("a red circle?")
    assert on["frames"]
    assert not on["sounds"]
    assert on["frames"][-1] <= on["time"] < off["time"]
    lines = noted.read_text().splitlines()
    assert lines == [f"on {on['yes']} {QUESTION}", f"off {off['yes']} {QUESTION}"]


def test_every_score_is_printed_if_asked_for_and_none_is_said_once(camera: MjpegServer, home: Path) -> None:
    arguments = ("watch", "What do you see?", "--webcam", camera.url, *FAST, "--all", "--for", "3s", *MODEL)
    with Running(*arguments, home=home) as watch:
        assert watch.end() == 0
        rows = [json.loads(line) for line in watch.out]
    assert 2 <= len(rows) <= 6, len(rows)
    assert {(row["state"], row["yes"], row["changed"]) for row in rows} == {("off", None, False)}
    assert all(before["time"] < after["time"] for before, after in pairwise(rows))
    assert sum("neither yes nor no" in line for line in watch.err) == 1


def test_a_command_that_fails_and_a_camera_that_is_gone_are_said_and_the_watch_goes_on(
    camera: MjpegServer, films: tuple[Path, Path], home: Path
) -> None:
    camera.show(films[0])
    arguments = ("watch", QUESTION, "--webcam", camera.url, *FAST, "--command", "no-such-program x", *MODEL)
    with Running(*arguments, home=home) as watch:
        watch.answers(1)
        watch.until("no-such-program x cannot be run")
        camera.kill()
        watch.until("trying again")
        watch.until("nothing is seen or heard; the watch goes on")
        camera.show(films[1])
        camera.start()
        watch.until("back after")
        assert [json.loads(line)["state"] for line in watch.answers(2)] == ["on", "off"]


def test_a_file_is_watched_to_its_end(films: tuple[Path, Path], home: Path) -> None:
    with Running("watch", QUESTION, "--webcam", films[0], *FAST, "--all", *MODEL, home=home) as watch:
        assert watch.end() == 0
        rows = [json.loads(line) for line in watch.out]
    assert [row["state"] for row in rows if row["changed"]][:1] == ["on"]
    assert rows[-1]["frames"], "its last pictures were asked about"
    said = [line for line in watch.err if "the miniature answers" not in line]
    assert said[-1].rstrip().endswith(f"{films[0]}: ended"), said
    assert all("nothing is seen" in line for line in said[:-1]), said  # before the first picture, on a slow machine


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((QUESTION,), "give --webcam SOURCE, --mic DEVICE or both"),
        ((QUESTION, "--webcam", "0", "--on", "0.3"), "off no greater than on"),
        ((QUESTION, "--webcam", "0", "--every", "0s"), "--every 0s is no time at all"),
        ((QUESTION, "--webcam", "0", "--every", "often"), "'often' is not a time"),
        pytest.param(
            (QUESTION, "--webcam", "0", "--command", "echo 'x"),
            "close the quotation",
            marks=pytest.mark.skipif(sys.platform == "win32", reason="a program reads its words itself there"),
        ),
        ((QUESTION, "--webcam", "0", "--command", ""), "--command is empty"),
        ((" ", "--webcam", "0"), "the question is empty"),
        ((QUESTION, "--webcam", "0", "--fps", "0", *MODEL), "fps is 0; use more than 0"),
    ],
)
def test_what_makes_no_sense_is_an_error(arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(app, ["watch", *arguments])
    assert isinstance(done.exception, SpecError)
    assert said in str(done.exception)
