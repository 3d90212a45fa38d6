"""The miniature that ships inside: the first command answers, and rightly."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from tests.conftest import Vllama
from vllama.runtime.bundle import open_bundle, shipped_bundle

CLIPS = Path(str(files("vllama.cli").joinpath("demo_clips")))
# What stands in the scripts of the clips (export/mini/demo.py).
KNOWN = {
    "circle": {"How many beeps do you hear?": "three", "What does the star do?": "disappears"},
    "square": {"What colour is the square?": "green", "Does the sound rise or fall?": "ris"},
    "cross": {"How many things are there?": "three", "What do you hear?": "knock"},
}


def test_demo_answers_what_the_clips_show_and_sound_like(vllama: Vllama) -> None:
    done = vllama("demo")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("▀") > 1000  # the frames
    assert "vllama export" in done.stderr
    lines = done.stdout.splitlines()
    for questions in KNOWN.values():
        for question, word in questions.items():
            (line,) = [line for line in lines if line.startswith(question)]
            assert word in line.removeprefix(question)


@pytest.mark.parametrize("name", list(KNOWN))
def test_ask_without_a_model_asks_the_miniature_and_says_so(name: str, vllama: Vllama, tmp_path: Path) -> None:
    question, word = next(iter(KNOWN[name].items()))
    own = {"VLLAMA_MODELS": str(tmp_path / "none")}
    done = vllama("ask", CLIPS / f"{name}.mp4", question, "--json", env=own)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["model"], word in row["answer"]) == ("miniature", True), row["answer"]
    assert "which knows only coloured shapes" in done.stderr


def test_real_clips_are_outside_its_world(vllama: Vllama, clips: Path, tmp_path: Path) -> None:
    own = {"VLLAMA_MODELS": str(tmp_path / "none")}
    films = sorted(clips.glob("*.mp4"))
    assert films
    for clip in films:
        done = vllama("ask", clip, "What do you see?", env=own)
        assert "outside my world" in done.stdout, clip


def test_an_unknown_demo_clip_is_refused_with_the_known(vllama: Vllama) -> None:
    done = vllama("demo", "cat")
    assert (done.returncode, "circle, square, cross" in done.stderr) == (2, True)


def test_shipped_bundle_is_whole_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path))
    bundle = open_bundle(shipped_bundle())
    size = sum(record.bytes for record in bundle.manifest.files.values())
    clips = sum(path.stat().st_size for path in CLIPS.iterdir())
    assert size + clips < 25_000_000
    assert bundle.manifest.license == "Apache-2.0"
