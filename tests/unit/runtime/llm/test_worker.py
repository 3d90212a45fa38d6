from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Iterator

import pytest

from vllama.runtime.llm.worker import Worker


@pytest.fixture
def cancel() -> threading.Event:
    return threading.Event()


@pytest.fixture
def worker(cancel: threading.Event) -> Iterator[Worker]:
    worker = Worker(cancel)
    yield worker
    worker.close()


def test_what_is_waited_for_comes_after_what_was_begun(worker: Worker) -> None:
    go_on = threading.Event()
    begun = worker.begin(lambda: go_on.wait(10.0))
    assert not worker.is_awaited
    threading.Timer(0.02, go_on.set).start()
    assert worker.run(lambda: (begun.done(), worker.is_awaited)) == (True, True)
    assert worker.is_awaited  # a moment ago
    assert worker.result(begun)


def test_what_a_call_raises_is_raised_where_it_is_waited_for(worker: Worker, cancel: threading.Event) -> None:
    begun = worker.begin(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        worker.result(begun)
    with pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 // 0)
    assert not cancel.is_set()


def test_ctrl_c_ends_the_call_that_is_waited_for(worker: Worker, cancel: threading.Event) -> None:
    ended: list[bool] = []

    def interrupted() -> None:
        time.sleep(0.05)  # it is waited for
        _thread.interrupt_main()
        ended.append(cancel.wait(10.0))

    with pytest.raises(KeyboardInterrupt):
        worker.run(interrupted)
    assert ended == [True]
    assert worker.run(lambda: 2) == 2
