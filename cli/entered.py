"""Lines that were not typed, among those that are: at a terminal's prompt, and beside a pipe."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

_LOOK_SECONDS = 1.0  # after which Ctrl-C is seen on Windows, too


class EnteredLines:
    """What is said becomes a line as if it had been typed; one that is half typed comes back with the next prompt.

    Args:
        expected: some can come; else a pipe is read as ever.

    Attributes:
        interrupted: called when Ctrl-C is typed at the prompt.
    """

    def __init__(self, *, expected: bool = True) -> None:
        self._expected = expected
        self.interrupted: Callable[[], None] = lambda: None
        self._lines: deque[str] = deque()
        self._lock = threading.Lock()
        self._wake: Callable[[], None] = lambda: None
        self._draft = ""

    def enter(self, line: str) -> None:
        """From any thread; a line that nobody waits for is the next one."""
        with self._lock:
            self._lines.append(line)
            self._wake()

    def prompt(self, session: PromptSession[str]) -> str:
        """The next line, typed or entered.

        Raises:
            KeyboardInterrupt, EOFError: as `PromptSession.prompt`.
        """
        draft, self._draft = self._draft, ""
        try:
            return session.prompt("> ", default=draft, pre_run=lambda: self._wait_at(session))
        except KeyboardInterrupt:
            self.interrupted()
            raise
        finally:
            self._sleep()

    def beside_stdin(self) -> Iterator[str]:
        """Lines of stdin until it ends, and those that are entered meanwhile."""
        if not self._expected:
            yield from sys.stdin
            return
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(lines,), name="stdin", daemon=True).start()
        with self._lock:
            self._wake = lambda: lines.put(self._lines.popleft())
            for _ in range(len(self._lines)):
                self._wake()
        try:
            while True:
                try:
                    line = lines.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    continue
                if line is None:
                    return
                yield line
        finally:
            self._sleep()

    def _wait_at(self, session: PromptSession[str]) -> None:
        """The prompt begins; in its event loop."""
        from asyncio import get_running_loop

        loop, context = get_running_loop(), copy_context()  # in which the prompt's application is the current one
        with self._lock:

            def wake() -> None:
                loop.call_soon_threadsafe(self._take, session, context=context)

            self._wake = wake
            if self._lines:
                self._wake()

    def _take(self, session: PromptSession[str]) -> None:
        """Type the line and the return key."""
        with self._lock:
            if not self._lines or session.app.is_done:
                return
            line = self._lines.popleft()
        buffer = session.default_buffer
        self._draft = buffer.text
        buffer.text = line
        buffer.validate_and_handle()

    def _sleep(self) -> None:
        with self._lock:
            self._wake = lambda: None


def _read(lines: queue.SimpleQueue[str | None]) -> None:
    """On a descriptor of its own: the interpreter would wait for Python's stdin when it ends."""
    with os.fdopen(os.dup(sys.stdin.fileno()), encoding=sys.stdin.encoding, errors=sys.stdin.errors) as stdin:
        for line in stdin:
            lines.put(line)
    lines.put(None)
