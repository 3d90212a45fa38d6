"""A command that is run when something happens, without a shell, while one goes on oneself."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from vllama.runtime import SpecError

_MOST = 4  # at once
_LEAVE_SECONDS = 2.0  # for those that run when it ends
_END_SECONDS = 1.0  # for those that were told to end
_OUT_OF_REACH = (psutil.NoSuchProcess, psutil.AccessDenied)  # it has ended, or belongs to another user


class Command:
    """Starts it each time, does not wait for it, and says what failed.

    It is split into words as a shell would, but no shell runs it: variables, pipes and `&&` need one, `sh -c '...'`.
    What it prints goes to stderr; it has no input.

    Args:
        text: None: there is none, and nothing happens.
        note: told what failed, in one line.

    Raises:
        SpecError: it cannot be split into words.
    """

    def __init__(self, text: str | None, note: Callable[[str], None]) -> None:
        self._text = text or ""
        self._note = note
        self._running: list[subprocess.Popen[bytes]] = []
        try:
            # Windows programs split their own command line.
            self._words = self._text if os.name == "nt" else shlex.split(self._text)
        except ValueError as error:
            raise SpecError(f"--command {text}: {error}; close the quotation") from error
        if text is not None and not text.strip():
            raise SpecError("--command is empty; give a program, or leave it out")

    def start(self, variables: dict[str, str]) -> None:
        """Run it once more, with these in its environment."""
        if not self._words:
            return
        self.look()
        if len(self._running) >= _MOST:
            self._note(f"{self._text} was not started: {_MOST} of it are still running")
            return
        try:
            process = subprocess.Popen(
                self._words, stdin=subprocess.DEVNULL, stdout=sys.stderr, env={**os.environ, **variables}
            )
        except (OSError, ValueError) as error:
            self._note(f"{self._text} cannot be run: {error}; the watch goes on")
            return
        self._running.append(process)

    def look(self) -> None:
        """Say which have failed meanwhile."""
        for process in [each for each in self._running if each.poll() is not None]:
            self._running.remove(process)
            if process.returncode:
                self._note(f"{self._text} ended with {process.returncode}; the watch goes on")

    def close(self) -> None:
        """Leave what still runs a moment, then end it with what it started."""
        left = self._left(_LEAVE_SECONDS)
        family: list[subprocess.Popen[bytes] | psutil.Process] = list(left)
        for process in left:
            family += _started_by(process.pid)
        for each in family:
            with suppress(*_OUT_OF_REACH):
                each.terminate()
        self._left(_END_SECONDS)
        for each in family:
            with suppress(*_OUT_OF_REACH):
                each.kill()
        for process in left:
            process.wait()
        self._running.clear()

    def _left(self, seconds: float) -> list[subprocess.Popen[bytes]]:
        """What still runs after so long."""
        end = time.monotonic() + seconds
        for process in self._running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
        return [process for process in self._running if process.poll() is None]

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _started_by(number: int) -> list[psutil.Process]:
    """What a process has started, and that, which still runs."""
    try:
        return psutil.Process(number).children(recursive=True)
    except _OUT_OF_REACH:
        return []
