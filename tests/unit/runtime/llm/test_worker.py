from __future__ import annotations

import _thread
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from vllama.runtime.errors import BackendError
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


def test_a_worker_that_was_closed_says_so(cancel: threading.Event) -> None:
    worker = Worker(cancel)
    worker.close()
    worker.close()
    with pytest.raises(BackendError) as error:
        worker.run(lambda: 1)
    assert str(error.value) == "the language model was closed; open it again"


def test_the_thread_of_a_worker_that_nobody_holds_ends(cancel: threading.Event) -> None:
    before = threading.active_count()
    worker = Worker(cancel)
    worker.run(lambda: 1)
    del worker
    gc.collect()
    assert threading.active_count() == before


_STOPPED_OFTEN = """
import random, signal, threading
from vllama.runtime.llm.worker import Worker
worker, stops = Worker(threading.Event()), 0
signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
while stops < 1500:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 1e-3))
        while True:
            worker.run(lambda: None)
    except KeyboardInterrupt:
        stops += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(worker.run(lambda: stops))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no timed signals")
def test_ctrl_c_at_any_point_leaves_a_worker_that_works() -> None:
    run = subprocess.run([sys.executable, "-c", _STOPPED_OFTEN], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("1500\n", "")
