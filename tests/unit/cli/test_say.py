from __future__ import annotations

import pytest

from vllama.cli.options import note
from vllama.cli.say import say
from vllama.runtime import SpecError


def test_words_with_line_breaks_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say(SpecError("a\nname.mp4:\r\n cannot be used"))
    note("a\nnote")
    assert capsys.readouterr() == ("", "vllama: a name.mp4: cannot be used\nvllama: note: a note\n")


def test_what_a_terminal_would_obey_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    say("\x1b[31mred\x07\x9b2J\U0001f469\u200d\U0001f52c.mp4")
    assert capsys.readouterr().err == "vllama: \ufffd[31mred\ufffd\ufffd2J\U0001f469\u200d\U0001f52c.mp4\n"
