"""`vllama eval` on a question file of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def questions(vllama: Callable, tiny_bundle: Path, clip: Path, silent_clip: Path, tmp_path: Path) -> Path:
    """Two questions that the model answers rightly, because its own answers are the key, and one that it cannot."""
    rows = []
    for video in (clip, silent_clip):
        options = ("--model", tiny_bundle, "--temperature", "0", "--json")
        said = json.loads(vllama("ask", video, "What happens?", *options).stdout)["answer"]
        rows.append({"video": str(video), "question": "What happens?", "answer": said, "kind": "own"})
    rows.append({"video": str(clip), "question": "Where?", "answer": "nowhere at all", "kind": "other"})
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def test_right_answers_are_counted_by_kind(
    vllama: Callable, tiny_bundle: Path, questions: Path, tmp_path: Path
) -> None:
    details = tmp_path / "details.jsonl"
    options = ("--model", tiny_bundle, "--set", questions, "--ablations", "--details", details)
    done = vllama("eval", *options, "--json")
    assert done.returncode == 0, done.stderr
    accuracy = json.loads(done.stdout)["accuracy"]
    assert set(accuracy) == {"as it is", "frames shuffled", "no sound", "other sound", "no media"}
    assert accuracy["as it is"]["own"]["accuracy"] == 1.0
    assert accuracy["as it is"]["own"]["questions"] == 2
    assert accuracy["as it is"]["own"]["low"] < 1.0
    assert accuracy["as it is"]["other"]["accuracy"] == 0.0
    assert accuracy["no media"]["own"]["accuracy"] < 1.0
    rows = [json.loads(line) for line in details.read_text("utf-8").splitlines()]
    assert len(rows) == 5 * 3
    assert all(row["right"] == (row["kind"] == "own") for row in rows if row["condition"] == "as it is")


def test_figures_are_a_table_for_people(vllama: Callable, tiny_bundle: Path, questions: Path) -> None:
    done = vllama("eval", "--model", tiny_bundle, "--set", questions)
    assert done.returncode == 0, done.stderr
    assert "own" in done.stdout
    assert "100.0% (34%-100%)" in done.stdout
    assert "0.0% (0%-79%)" in done.stdout


def test_a_set_that_is_not_there_is_one_line(vllama: Callable, tiny_bundle: Path) -> None:
    done = vllama("eval", "--model", tiny_bundle, "--set", "none.jsonl")
    assert (done.returncode, len(done.stderr.splitlines()), "none.jsonl" in done.stderr) == (3, 1, True)
