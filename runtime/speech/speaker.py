"""Answers read aloud, sentence by sentence as they are made, and silence at once when it is asked for."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable

from .sentences import Sentences
from .voices import Voice

_TAIL = 0.5  # seconds after which nothing of it is left in the buffers of the sound system and in the room
_KEPT = 200  # sentences, of which it is remembered when they sounded
_CLOSE_SECONDS = 2.0
_HUSH_SECONDS = 5.0
_INTERRUPTED = {0xC000013A}  # Windows, by Ctrl-C


class Speaker:
    """Reads on a thread of its own, from construction to `close`.

    Args:
        note: told in one line, once, when the voice cannot be used; what is pushed later is passed over.
        now: the clock of `sounds`.
    """

    def __init__(self, voice: Voice, note: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._voice = voice
        self._note = note
        self._now = now
        self._news = threading.Condition()
        self._sentences = Sentences()
        self._waiting: deque[str] = deque()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False  # what is being read
        self._failed = self._closed = False
        self._times: deque[tuple[float, float]] = deque(maxlen=_KEPT)  # from and to
        self._thread = threading.Thread(target=self._run, name="speaker", daemon=True)
        self._thread.start()

    def push(self, text: str) -> None:
        """More of an answer; what is a whole sentence with it is read after those before."""
        self._add(self._sentences.push(text))

    def finish(self) -> None:
        """The answer is complete."""
        self._add(self._sentences.finish())

    def stop(self) -> None:
        """Be silent at once, and drop what was not read; may be called from any thread."""
        with self._news:
            self._sentences = Sentences()
            self._waiting.clear()
            process, self._stopped = self._process, True
            if process is not None:
                process.terminate()
        if process is not None and self._voice.hush:
            self._hush()

    def wait(self) -> None:
        """Return when all was read."""
        with self._news:
            while self._waiting or self._process is not None:
                self._news.wait(1.0)  # with a limit Ctrl-C is seen on Windows, too

    def sounds(self, moment: float) -> bool:
        """Whether the voice could be heard at that moment of the clock; also for half a second after it ended."""
        with self._news:
            return any(start <= moment <= end + _TAIL for start, end in self._times)

    def close(self) -> None:
        """Be silent and end the thread; a second call does nothing."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        self.stop()
        self._thread.join(_CLOSE_SECONDS)
        process = self._process
        if process is not None:
            process.kill()

    def _add(self, sentences: list[str]) -> None:
        with self._news:
            if not self._failed:
                self._waiting += sentences
                self._news.notify_all()

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                process = self._start(self._waiting.popleft())
            if process is not None:
                self._follow(*process)

    def _start(self, text: str) -> tuple[subprocess.Popen[bytes], bytes] | None:
        """The program, while `_news` is held: a `stop` comes before it or finds it."""
        # Voices of Apple and espeak take what stands in double brackets for commands.
        said = text.replace("[[", "[ [")
        command = [*self._voice.command, *([] if self._voice.by_stdin else [said])]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )  # fmt: skip
        except OSError as error:
            self._fail(error.strerror or str(error))
            return None
        self._process, self._stopped = process, False
        self._times.append((self._now(), float("inf")))
        return process, said.encode() if self._voice.by_stdin else b""

    def _follow(self, process: subprocess.Popen[bytes], text: bytes) -> None:
        _, said = process.communicate(text)
        with self._news:
            self._process = None
            self._times[-1] = (self._times[-1][0], self._now())
            if not self._stopped and (reason := _reason(process.returncode, said.decode("utf-8", "replace"))):
                self._fail(reason)
            self._news.notify_all()

    def _hush(self) -> None:
        devnull = subprocess.DEVNULL
        try:
            subprocess.run(self._voice.hush, stdin=devnull, stdout=devnull, stderr=devnull, timeout=_HUSH_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            self._note(f"{self._voice.name} cannot be stopped: {error}")

    def _fail(self, reason: str) -> None:
        """Say so, and go on without."""
        if not self._failed:
            self._note(f"{self._voice.name} cannot read aloud: {reason}; answers are only shown from now on")
        self._failed = True
        self._waiting.clear()
        self._news.notify_all()


def _reason(code: int, said: str) -> str:
    """Why it failed; "": it did not, or Ctrl-C ended it. espeak-ng ends with 0 even where nothing can sound."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if code < 0 or code in _INTERRUPTED or (code == 0 and not last.startswith("error")):
        return ""
    return last.removeprefix("error: ")[:120] or f"it ended with {code}"
