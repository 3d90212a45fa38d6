from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from vllama.cli.entered import EnteredLines

Later = Callable[[float, Callable[[], None]], None]


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    """What is typed at the prompt."""
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        patience = threading.Timer(30.0, keys.close)  # ends a prompt that waits in vain
        patience.start()
        yield keys
        patience.cancel()


@pytest.fixture
def later() -> Iterator[Later]:
    """Do something after so many seconds, on another thread."""
    threads: list[threading.Timer] = []

    def start(seconds: float, action: Callable[[], None]) -> None:
        threads.append(threading.Timer(seconds, action))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()


def test_what_is_said_is_a_line_at_the_prompt(keys: PipeInput, later: Later) -> None:
    entered, session = EnteredLines(), PromptSession[str]()
    later(0.3, lambda: entered.enter("what is it?"))
    assert entered.prompt(session) == "what is it?"
    keys.send_text("typed\r")
    assert entered.prompt(session) == "typed"


def test_what_was_half_typed_comes_back_with_the_next_prompt(keys: PipeInput, later: Later) -> None:
    entered, session = EnteredLines(), PromptSession[str]()
    keys.send_text("half a li")
    later(0.5, lambda: entered.enter("what is it?"))
    assert entered.prompt(session) == "what is it?"
    later(0.3, lambda: keys.send_text("ne\r"))
    assert entered.prompt(session) == "half a line"


def test_what_is_said_while_nobody_waits_is_the_next_line(keys: PipeInput) -> None:
    entered, session = EnteredLines(), PromptSession[str]()
    entered.enter("one?")
    entered.enter("two?")
    assert [entered.prompt(session) for _ in range(2)] == ["one?", "two?"]


def test_ctrl_c_at_the_prompt_is_told(keys: PipeInput) -> None:
    entered, session = EnteredLines(), PromptSession[str]()
    told: list[str] = []
    entered.interrupted = lambda: told.append("yes")
    keys.send_text("half\x03")
    with pytest.raises(KeyboardInterrupt):
        entered.prompt(session)
    assert told == ["yes"]


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Where to write stdin."""
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as stdin, os.fdopen(writing, "w", encoding="utf-8") as writer:
        monkeypatch.setattr("sys.stdin", stdin)
        yield writer


def test_beside_a_pipe_lines_come_from_both(pipe: Any, later: Later) -> None:
    entered = EnteredLines()
    entered.enter("before")
    lines = entered.beside_stdin()
    assert next(lines) == "before"
    later(0.2, lambda: entered.enter("said"))
    assert next(lines) == "said"
    print("written", file=pipe, flush=True)
    assert next(lines) == "written\n"
    later(0.2, pipe.close)
    assert list(lines) == []
    entered.enter("nobody waits")


def test_where_nothing_can_be_said_a_pipe_is_read_as_ever(pipe: Any) -> None:
    lines = EnteredLines(expected=False).beside_stdin()
    print("one\ntwo", file=pipe)
    pipe.close()
    assert list(lines) == ["one\n", "two\n"]
    time.sleep(0.05)
    assert not [each for each in threading.enumerate() if each.name == "stdin"]
