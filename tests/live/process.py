"""The `vllama` command at work: lines in, and what it says waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import pytest

_PATIENCE = 60.0


class Running:
    """`vllama ARGUMENTS` with a pipe at each end; also a context manager.

    out, err: the lines so far.
    """

    def __init__(self, *arguments: object, home: Path) -> None:
        own = {"VLLAMA_MODELS": str(home / "models"), "VLLAMA_CACHE": str(home / "cache"), "COLUMNS": "120"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vllama.cli", *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            encoding="utf-8", env={**os.environ, **own},
        )  # fmt: skip
        self.out: list[str] = []
        self.err: list[str] = []
        self._news = threading.Condition()
        pipes = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._readers = [threading.Thread(target=self._read, args=pair) for pair in pipes]
        for reader in self._readers:
            reader.start()

    def say(self, *lines: str) -> None:
        """Type these."""
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines))
        self.process.stdin.flush()

    def until(self, words: str, *, after: int = 0, seconds: float = _PATIENCE) -> str:
        """The first line, of stdout or stderr, with these words; after: lines of stderr that do not count."""
        end = time.monotonic() + seconds
        with self._news:
            while True:
                found = next((line for line in [*self.out, *self.err[after:]] if words in line), None)
                if found is not None:
                    return found
                left = end - time.monotonic()
                assert left > 0, (words, self.out, self.err)
                self._news.wait(min(left, 0.2))

    def answers(self, count: int) -> list[str]:
        """Stdout, once it has so many lines."""
        end = time.monotonic() + _PATIENCE
        with self._news:
            while len(self.out) < count:
                assert time.monotonic() < end, (self.out, self.err)
                self._news.wait(0.2)
            return list(self.out)

    def interrupt(self) -> None:
        """Ctrl-C."""
        if sys.platform == "win32":
            pytest.skip("Ctrl-C is sent as POSIX does it")
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Close its input and wait; the exit code."""
        assert self.process.stdin is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
        code = self.process.wait(_PATIENCE)
        for reader in self._readers:
            reader.join()
        return code

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()

    def _read(self, pipe: object, lines: list[str]) -> None:
        for line in pipe:  # type: ignore[attr-defined]
            with self._news:
                lines.append(line.rstrip("\n"))
                self._news.notify_all()
