from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from vllama.runtime.ahead import ahead


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "decode"]


def test_everything_comes_in_order() -> None:
    assert list(ahead(iter(range(100)), 3)) == list(range(100))
    assert not _threads()


def test_another_thread_works_ahead_but_not_far() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    items = ahead(source(), 3)
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert len(made) == 5  # one taken, three waiting, one in hand
    items.close()


def test_error_comes_after_what_was_made_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    items = ahead(source(), 3)
    assert next(items) == 1
    with pytest.raises(KeyError, match="broken"):
        next(items)
    assert not _threads()


def test_closing_ends_the_thread_and_the_source() -> None:
    ended = threading.Event()

    def source() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            ended.set()

    made = source()  # and held, so that nobody but the thread closes it
    items = ahead(made, 2)
    next(items)
    items.close()
    assert ended.is_set()
    assert not _threads()


def test_ctrl_c_while_the_thread_begins_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(ahead(iter(range(100)), 3))
    assert not _threads()
