"""Lines of a terminal that has no screen to draw on."""

from __future__ import annotations

import io
import sys

import pytest

from vllama.cli.entered import EnteredLines
from vllama.cli.terminal import Terminal


class _Typed(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("entered", [None, EnteredLines(expected=False)], ids=["clip", "live"])
def test_on_windows_lines_are_typed_without_a_screen_where_stdout_is_a_pipe(
    entered: EnteredLines | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        patch.setattr(sys, "stdin", _Typed("What?\nAnd?\n"))
        lines = [*Terminal(entered=entered).lines()]
    assert lines == ["What?\n", "And?\n"]
    assert capsys.readouterr() == ("", "> > > ")


def test_lines_of_a_pipe_have_no_prompt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("What?\n"))
    assert [*Terminal().lines()] == ["What?\n"]
    assert capsys.readouterr() == ("", "")
