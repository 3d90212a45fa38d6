from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vllama.cli.shell import Shell
from vllama.runtime import ContextOverflowError, Span
from vllama.runtime.times import parse_span


class Noted(Shell):
    """Notes what is asked, and about which span."""

    def __init__(self) -> None:
        self.turns: list[Any] = []
        super().__init__(cast(Any, SimpleNamespace(turns=self.turns, clear=self.turns.clear)))
        self.asked: list[tuple[Span, str]] = []

    def ask(self, question: str, span: Span) -> None:
        self.asked.append((span, question))
        self.turns.append(SimpleNamespace(question=question, answer="Yes."))

    def read_span(self, text: str) -> Span:
        return parse_span(text)

    def spoken(self, span: Span) -> str:
        return str(span)

    @property
    def heading(self) -> str:
        return "clip\udcff.mp4, a model"

    def prepare(self) -> None:
        pass


@pytest.fixture
def shell() -> Noted:
    return Noted()


@pytest.mark.parametrize(
    ("line", "span", "question"),
    [
        ("0:10-0:15 what?", Span(10.0, 15.0), "what?"),
        ("0:01 - 0:03 what?", Span(1.0, 3.0), "what?"),
        ("0:01 -0:03 what?", Span(1.0, 3.0), "what?"),
        ("0:01- what?", Span(1.0, float("inf")), "what?"),
        ("0:01 - what?", Span(1.0, float("inf")), "what?"),
        ("1m 30s what?", Span.at(90.0), "what?"),
        ("1M 30S - 2M What?", Span(90.0, 120.0), "What?"),
        ("Last 2s what?", Span.last(2.0), "what?"),
        ("last 2 s what?", Span.last(2.0), "what?"),
        ("ALL what?", Span.whole(), "what?"),
        ("all is this all?", Span.whole(), "is this all?"),
        ("0:02 last thing?", Span.at(2.0), "last thing?"),
        ("10 2 cars or one?", Span.at(10.0), "2 cars or one?"),  # no moment 102
        ("0-1 - or not?", Span(0.0, 1.0), "- or not?"),
    ],
)
def test_as_many_words_as_make_a_span_are_the_span(shell: Noted, line: str, span: Span, question: str) -> None:
    shell.run(iter([f"/at {line}\n"]))
    assert shell.asked == [(span, question)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "no question"),
        ("0-1", "no question"),
        ("0:01 - 0:03", "no question"),
        ("soon what?", "'soon' is not a time"),
        ("0:03 - 0:01 what?", "0:03 where it begins; swap them"),
        ("0:03 -0:01 what?", "0:03 where it begins; swap them"),
    ],
)
def test_what_is_no_span_with_a_question_is_said_and_not_asked(
    shell: Noted, line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run(iter([f"/at {line}\n"]))
    assert shell.asked == []
    (words,) = capsys.readouterr().err.splitlines()
    assert said in words


@pytest.mark.parametrize("failure", [ContextOverflowError("too long"), KeyboardInterrupt()])
def test_what_fails_before_a_question_does_not_end_the_conversation(
    shell: Noted, failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare() -> None:
        raise failure

    monkeypatch.setattr(shell, "prepare", prepare)
    shell.run(iter(["one\n", "two\n"]))
    assert [question for _, question in shell.asked] == ["one", "two"]


def test_what_is_no_text_is_asked_as_replacement_characters(shell: Noted) -> None:
    shell.run(iter(["what \udcff?\n"]))
    assert shell.asked == [(Span.whole(), "what \ufffd?")]


def test_a_talk_is_saved_whole_whatever_the_clip_is_called(shell: Noted, tmp_path: Path) -> None:
    shell.run(iter(["what \udcff?\n", f"/save {tmp_path / 'talk.txt'}\n"]))
    assert (tmp_path / "talk.txt").read_text("utf-8") == "clip\ufffd.mp4, a model\n\n> what \ufffd?\nYes.\n"


def test_a_talk_does_not_take_the_place_of_a_file(
    shell: Noted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("mine")
    shell.run(iter(["what?\n", f"/save {tmp_path / 'mine'}\n", "and?\n"]))
    assert (tmp_path / "mine").read_text() == "mine"
    assert capsys.readouterr().err == (f"vllama: {tmp_path / 'mine'}: is there already; give a new file\n")
    assert len(shell.asked) == 2
