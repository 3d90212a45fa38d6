from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllama.runtime.errors import FileError, MissingFileError
from vllama.runtime.question_set import read_questions, words


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "1.mp4").write_bytes(b"x")
    return tmp_path


def write(folder: Path, *rows: object) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "utf-8")
    return path


def test_a_plain_question_is_right_when_the_answer_says_its_words(folder: Path) -> None:
    (each,) = read_questions(write(folder, {"video": "clips/1.mp4", "question": "q", "answer": "Light red."}, ""))
    assert (each.video, each.kind, each.key) == (folder / "clips" / "1.mp4", "unnamed", frozenset({"light", "red"}))
    assert each.is_right("It is red, a light one!")
    assert not each.is_right("It is reddish and light")


def test_an_answer_that_says_a_rival_is_wrong(folder: Path) -> None:
    row = {
        "video": "clips/1.mp4",
        "question": "q",
        "answer": "red circle",
        "key": ["Red"],
        "rivals": ["blue"],
        "kind": "k",
    }
    (each,) = read_questions(write(folder, row))
    assert each.is_right("RED.")
    assert not each.is_right("red or blue")


@pytest.mark.parametrize(
    "row",
    ["{", "[]", {"video": "clips/1.mp4", "question": "q"}, {"video": "clips/1.mp4", "question": 1, "answer": "a"},
     {"video": "clips/1.mp4", "question": "q", "answer": "a", "key": [1]}, "5", "[" * 10_000, '{"video": "\\udcff"}'],
)  # fmt: skip
def test_a_line_that_is_no_question_is_named_by_its_number(folder: Path, row: object) -> None:
    good = {"video": "clips/1.mp4", "question": "q", "answer": "a"}
    with pytest.raises(FileError, match="line 2"):
        read_questions(write(folder, good, row))


@pytest.mark.parametrize(
    ("field", "value"),
    [("answer", ""), ("answer", "?!"), ("key", []), ("key", [""]), ("key", ["light red"]), ("rivals", ["?"]),
     ("question", " "), ("kind", "all"), ("kind", ""), ("rival", ["red"])],
)  # fmt: skip
def test_what_would_make_a_figure_wrong_is_refused_by_its_name(folder: Path, field: str, value: object) -> None:
    row = {"video": "clips/1.mp4", "question": "q", "answer": "a", field: value}
    with pytest.raises(FileError, match=f"line 1: {field}"):
        read_questions(write(folder, row))


def test_a_line_ends_where_json_says_so(folder: Path) -> None:
    question = "before\u2028after"  # a line separator, which JSON allows within a text
    row = json.dumps({"video": "clips/1.mp4", "question": question, "answer": "a"}, ensure_ascii=False)
    assert [each.question for each in read_questions(write(folder, row, row))] == [question, question]


def test_a_byte_order_mark_is_no_part_of_the_first_line(folder: Path) -> None:
    path = write(folder, {"video": "clips/1.mp4", "question": "q", "answer": "a"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [each.question for each in read_questions(path)] == ["q"]


def test_files_that_are_not_there_are_named(folder: Path) -> None:
    with pytest.raises(MissingFileError, match=r"none\.jsonl"):
        read_questions(folder / "none.jsonl")
    with pytest.raises(MissingFileError, match=r"2\.mp4"):
        read_questions(write(folder, {"video": "2.mp4", "question": "q", "answer": "a"}))
    with pytest.raises(MissingFileError, match="is not there"):
        read_questions(write(folder, {"video": "2" * 5000, "question": "q", "answer": "a"}))
    with pytest.raises(FileError, match="holds no question"):
        read_questions(write(folder, ""))


def test_words_leave_case_and_punctuation_out() -> None:
    assert words("It's Red, RED!") == {"it", "s", "red"}
