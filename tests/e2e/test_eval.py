"""`vllama eval` on a question file of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.conftest import Vllama
from vllama.runtime import Timeline
from vllama.runtime.ablation import ABLATIONS


@pytest.fixture
def questions(command: Vllama, tiny_bundle: Path, clip: Path, silent_clip: Path, tmp_path: Path) -> Path:
    """Two questions that the model answers rightly, because its own answers are the key, and one that it cannot."""
    rows = []
    for video in (clip, silent_clip):
        options = ("--model", tiny_bundle, "--temperature", "0", "--json")
        said = json.loads(command("ask", video, "What happens?", *options).stdout)["answer"]
        rows.append({"video": str(video), "question": "What happens?", "answer": said, "kind": "own"})
    rows.append({"video": str(clip), "question": "Where?", "answer": "nowhere at all", "kind": "other"})
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


def test_right_answers_are_counted_by_kind(command: Vllama, tiny_bundle: Path, questions: Path, tmp_path: Path) -> None:
    details = tmp_path / "details.jsonl"
    options = ("--model", tiny_bundle, "--set", questions, "--ablations", "--details", details)
    done = command("eval", *options, "--json")
    assert done.returncode == 0, done.stderr
    accuracy = json.loads(done.stdout)["accuracy"]
    assert set(accuracy) == {"as it is", "frames shuffled", "no sound", "other sound", "no media"}
    assert accuracy["as it is"]["own"]["accuracy"] == 1.0
    assert accuracy["as it is"]["own"]["questions"] == 2
    assert accuracy["as it is"]["own"]["low"] < 1.0
    assert accuracy["as it is"]["other"]["accuracy"] == 0.0
    assert accuracy["no media"]["own"]["accuracy"] < 1.0
    assert accuracy["as it is"]["all"]["accuracy"] == 2 / 3
    assert json.loads(done.stdout)["not_answered"] == 0
    rows = [json.loads(line) for line in details.read_text("utf-8").splitlines()]
    assert len(rows) == 5 * 3
    assert all(row["right"] == (row["kind"] == "own") for row in rows if row["condition"] == "as it is")


def test_figures_are_a_table_for_people(vllama: Vllama, tiny_bundle: Path, questions: Path) -> None:
    done = vllama("eval", "--model", tiny_bundle, "--set", questions)
    assert done.returncode == 0, done.stderr
    assert "own" in done.stdout
    assert "100.0% (34%-100%)" in done.stdout
    assert "0.0% (0%-79%)" in done.stdout


def test_what_is_outside_its_world_is_refused_by_the_miniature(command: Vllama) -> None:
    done = command("eval", "--model", "miniature", "--set", "foreign", "--clips", 2, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["accuracy"]["as it is"]
    assert {kind: (row["questions"], row["accuracy"]) for kind, row in found.items()} == {
        "foreign picture": (6, 1.0),
        "foreign sound": (4, 1.0),
        "all": (10, 1.0),
    }


def test_a_set_that_is_not_there_is_one_line(vllama: Vllama, tiny_bundle: Path) -> None:
    done = vllama("eval", "--model", tiny_bundle, "--set", "none.jsonl")
    assert (done.returncode, len(done.stderr.splitlines()), "none.jsonl" in done.stderr) == (3, 1, True)


def test_details_take_the_place_of_nothing(command: Vllama, tiny_bundle: Path, questions: Path) -> None:
    before = questions.read_bytes()
    done = command("eval", "--model", tiny_bundle, "--set", questions, "--details", questions)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (3, "", 1)
    assert "is there already" in done.stderr
    assert questions.read_bytes() == before


def test_details_that_cannot_be_written_are_refused_before_the_model_is_looked_for(
    command: Vllama, questions: Path, tmp_path: Path
) -> None:
    details = tmp_path / "none" / "details.jsonl"
    done = command("eval", "--model", "no-such-model", "--set", questions, "--details", details)
    assert (done.returncode, len(done.stderr.splitlines()), str(details) in done.stderr) == (3, 1, True)
    new = tmp_path / "new.jsonl"
    assert command("eval", "--model", "no-such-model", "--set", questions, "--details", new).returncode == 3
    assert not new.exists(), "nothing was answered"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_clip_that_cannot_be_decoded_costs_its_own_questions_only(
    command: Vllama, tiny_bundle: Path, questions: Path, tmp_path: Path, as_json: bool
) -> None:
    for number, place in enumerate((0, 3)):  # the first, and then the last, which lends its sound to the first
        rows = questions.read_text("utf-8").splitlines()[:2]
        (tmp_path / "bad.mp4").write_bytes(b"no clip at all")
        rows.insert(place, json.dumps({"video": "bad.mp4", "question": "What?", "answer": "a", "kind": "bad"}))
        bad, details = tmp_path / "bad.jsonl", tmp_path / f"details{number}.jsonl"
        bad.write_text("\n".join(rows), "utf-8")
        options = ("--model", tiny_bundle, "--set", bad, "--ablations", "--details", details)
        done = command("eval", *options, *["--json"] * as_json)
        assert done.returncode == 4, done.stderr
        assert "1 of 3 questions" in done.stderr.splitlines()[-1]
        assert "bad.mp4" in done.stderr.splitlines()[-1]
        if as_json:
            figures = json.loads(done.stdout)
            assert figures["not_answered"] == 1
            assert {name: row["questions"] for name, row in figures["accuracy"]["as it is"].items()} == {
                "own": 2, "all": 2,
            }  # fmt: skip
        else:
            assert "100.0%" in done.stdout
        written = [json.loads(line) for line in details.read_text("utf-8").splitlines()]
        assert len(written) == 5 * 3
        assert [row["right"] for row in written if row["kind"] == "bad"] == [None] * 5


def test_a_set_of_which_nothing_can_be_answered_has_no_figures(
    vllama: Vllama, command: Vllama, tiny_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no clip at all")
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"video": "bad.mp4", "question": "What?", "answer": "a"}), "utf-8")
    table = vllama("eval", "--model", tiny_bundle, "--set", path)
    assert (table.returncode, table.stdout, "Traceback" in table.stderr) == (4, "", False)
    figures = command("eval", "--model", tiny_bundle, "--set", path, "--json")
    assert (figures.returncode, json.loads(figures.stdout)["accuracy"]) == (4, {"as it is": {}})


def test_a_question_that_does_not_fit_counts_in_no_condition(
    vllama: Vllama,
    command: Vllama,
    tiny_bundle: Path,
    clip: Path,
    tiny_config: dict[str, Any],
    tmp_path: Path,
) -> None:
    short, longer = "What?" + " a" * 10, "What?" + " a" * 110
    done = command("ask", clip, short, "-m", tiny_bundle, "--json", "-n", 1)
    one = json.loads(done.stdout)["prompt_tokens"]
    done = command("ask", clip, longer, "-m", tiny_bundle, "--json", "-n", 1)
    each = (json.loads(done.stdout)["prompt_tokens"] - one) / 100
    room = tiny_config["llama"]["max_position_embeddings"] - one
    too_long = short + " a" * (int(room / each) + 10)  # fits without media alone
    path = tmp_path / "long.jsonl"
    asked = [{"video": str(clip), "question": text, "answer": "a", "kind": "k"} for text in ("What?", too_long)]
    path.write_text("\n".join(map(json.dumps, asked)), "utf-8")
    details = tmp_path / "details.jsonl"
    done = vllama("eval", "-m", tiny_bundle, "--set", path, "--ablations", "--json", "--details", details)
    assert done.returncode == 6, done.stderr
    figures = json.loads(done.stdout)
    assert {name: kinds["k"]["questions"] for name, kinds in figures["accuracy"].items()} == dict.fromkeys(
        ("as it is", "frames shuffled", "no sound", "other sound", "no media"), 1
    )
    assert figures["not_answered"] == 1
    rows = [json.loads(line) for line in details.read_text("utf-8").splitlines()]
    answers = {row["condition"]: row["answer"] for row in rows if row["question"] == too_long}
    assert answers["as it is"] is None
    assert answers["no media"] is not None


def test_questions_of_no_kind_are_counted_once_and_brackets_are_no_markup(
    command: Vllama, tiny_bundle: Path, clip: Path, tmp_path: Path
) -> None:
    path = tmp_path / "kinds.jsonl"
    rows = [{"video": str(clip), "question": "What?", "answer": "a"}]
    path.write_text(json.dumps(rows[0]), "utf-8")
    plain = command("eval", "--model", tiny_bundle, "--set", path)
    assert plain.returncode == 0, plain.stderr
    assert [line.split()[1] for line in plain.stdout.splitlines() if "0.0%" in line] == ["unnamed", "all"]
    path.write_text(json.dumps(rows[0] | {"kind": "a [/x] [red]b"}), "utf-8")
    marked = command("eval", "--model", tiny_bundle, "--set", path)
    assert marked.returncode == 0, marked.stderr
    assert "a [/x] [red]b" in marked.stdout


def test_each_question_is_asked_by_itself(command: Vllama, tiny_bundle: Path, clip: Path, tmp_path: Path) -> None:
    path, details = tmp_path / "questions.jsonl", tmp_path / "details.jsonl"
    rows = [{"video": str(clip), "question": text, "answer": "a"} for text in ("What happens?", "Where?", "Where?")]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert command("eval", "--model", tiny_bundle, "--set", path, "--details", details).returncode == 0
    answers = [json.loads(line)["answer"] for line in details.read_text("utf-8").splitlines()]
    assert answers[1] == answers[2]


def test_other_sound_is_of_another_clip_and_what_is_drawn_is_drawn_again(
    command: Vllama, tiny_bundle: Path, clip: Path, silent_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [{"video": str(video), "question": "What?", "answer": "a"} for video in (clip, silent_clip)]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    drawn: list[float] = []

    def other_sound(timeline: Timeline, other: Timeline, count: int, rng: Random) -> Timeline:
        assert timeline.content != other.content
        drawn.append(rng.random())
        return timeline

    monkeypatch.setitem(ABLATIONS, "other sound", other_sound)
    for _ in range(2):
        assert command("eval", "--model", tiny_bundle, "--set", path, "--ablations", "--json").returncode == 0
    assert drawn[: len(drawn) // 2] == drawn[len(drawn) // 2 :]


def test_each_condition_has_a_column_of_its_own(command: Vllama, tiny_bundle: Path, questions: Path) -> None:
    done = command("eval", "--model", tiny_bundle, "--set", questions, "--ablations", "--json")
    figures = json.loads(done.stdout)["accuracy"].values()
    table = command("eval", "--model", tiny_bundle, "--set", questions, "--ablations").stdout
    (row,) = (line.split() for line in table.splitlines() if " own " in line)
    assert [cell for cell in row if cell.endswith("%")] == [f"{kinds['own']['accuracy']:.1%}" for kinds in figures]
