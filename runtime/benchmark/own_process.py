"""A function in a process of its own: its peak of memory is its own, and ending it leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import TypeVar

from ..errors import BackendError, VllamaError

Say = Callable[[str], None]
_T = TypeVar("_T")
_WAKE_SECONDS = 0.2  # waiting without a limit would keep Ctrl-C out on Windows


def in_own_process(function: Callable[..., _T], *arguments: object, say: Say) -> _T:
    """`function(*arguments, say)` in a fresh process, which ends with this one at the latest.

    Call it from the main thread.

    Args:
        function: of a module's top level; arguments and result are pickled.
        say: told what the function says.

    Raises:
        BackendError: it had not the memory, or was ended from outside.
        VllamaError: what the function raises.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(there, function, arguments), daemon=True)
    with _no_interrupt():
        process.start()
    there.close()
    try:
        while True:
            try:
                if not here.poll(_WAKE_SECONDS):
                    continue
                kind, value = here.recv()
            except (EOFError, OSError):  # it ended before a message, or in the middle of one
                process.join()
                raise BackendError(
                    f"the process of {function.__name__} ended with {process.exitcode}; it may have lacked memory"
                ) from None
            if kind == "say":
                say(value)
            elif kind == "failed":
                raise value
            else:
                result: _T = value
                return result
    finally:
        process.kill()
        process.join()
        here.close()


def _run(there: Connection, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both, and the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        there.send(("done", function(*arguments, lambda text: there.send(("say", text)))))
    except VllamaError as error:
        there.send(("failed", error))
    except MemoryError as error:
        text = str(error) or "it cannot be had"
        there.send(("failed", BackendError(f"not enough memory for {function.__name__} ({text}); end other programs")))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """A process that starts now ignores Ctrl-C at once, where signals are inherited (POSIX); here none is heard."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
