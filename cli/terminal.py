"""Where lines come from and notes go: a terminal with line editing, history and a status line, or a pipe."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from .entered import EnteredLines
from .say import message

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import Output
    from prompt_toolkit.patch_stdout import StdoutProxy

_REFRESH_SECONDS = 0.5


class Terminal:
    """Lines as they are typed; notes of any thread stand above what is typed, and below an answer that is shown.

    Args:
        status: the line below what is typed, asked for twice a second; None: no such line.
        title: of the terminal's window, which also stands there while an answer is shown.
        typing: called at every key.
        entered: lines that are not typed.
    """

    def __init__(
        self,
        status: Callable[[], str] | None = None,
        title: Callable[[], str] = lambda: "",
        typing: Callable[[], None] = lambda: None,
        entered: EnteredLines | None = None,
    ) -> None:
        self._status = status
        self._title = title
        self._typing = typing
        self._entered = entered
        self._output: Output | None = None
        self._above: StdoutProxy | None = None
        self._titled = ""
        self._held: list[str] | None = None
        self._lock = threading.Lock()

    def lines(self) -> Generator[str, None, None]:
        """What is typed until the input ends."""
        typed = sys.stdin.isatty()
        # On Windows prompt_toolkit draws on stdout's console alone.
        if not typed or (sys.platform == "win32" and not sys.stdout.isatty()):
            yield from self._plain_lines("> " if typed else "")
            return
        with self._session() as session:
            print("/help lists the commands", file=sys.stderr)
            while True:
                try:
                    yield session.prompt("> ") if self._entered is None else self._entered.prompt(session)
                except KeyboardInterrupt:
                    continue
                except EOFError:
                    return

    def note(self, text: str) -> None:
        """One line to stderr, from any thread."""
        line = f"{message(f'note: {text}')}\n"
        with self._lock:
            if self._held is None:
                self._write(line)
            else:
                self._held.append(line)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Notes wait meanwhile."""
        with self._lock:
            self._held = []
        try:
            yield
        finally:
            with self._lock:
                held, self._held = self._held, None
                self._write("".join(held))

    def show_title(self) -> None:
        """Bring the window's title up to date."""
        title = self._title()
        if self._output is not None and title != self._titled:
            self._titled = title
            self._output.set_title(title)
            self._output.flush()

    def _write(self, text: str) -> None:
        if text:
            stream = self._above or sys.stderr
            stream.write(text)
            stream.flush()

    def _plain_lines(self, prompt: str) -> Iterator[str]:
        print(prompt, end="", file=sys.stderr, flush=True)
        for line in sys.stdin if self._entered is None else self._entered.beside_stdin():
            yield line
            print(prompt, end="", file=sys.stderr, flush=True)

    @contextmanager
    def _session(self) -> Iterator[PromptSession[str]]:
        from prompt_toolkit import PromptSession  # not needed for pipes, and slow to import
        from prompt_toolkit.application import create_app_session
        from prompt_toolkit.output import create_output
        from prompt_toolkit.patch_stdout import StdoutProxy

        output = create_output(stdout=sys.stderr)
        with ExitStack() as stack:
            stack.enter_context(create_app_session(output=output))
            if self._status is None:
                yield PromptSession()
                return
            session: PromptSession[str] = PromptSession(bottom_toolbar=self._toolbar, refresh_interval=_REFRESH_SECONDS)
            session.default_buffer.on_text_changed += lambda _: self._typing()
            stack.callback(self._untitle)
            self._output = output
            self._above = stack.enter_context(StdoutProxy(raw=True))
            yield session

    def _toolbar(self) -> str:
        self.show_title()
        return self._status() if self._status is not None else ""

    def _untitle(self) -> None:
        if self._output is not None:
            self._output.clear_title()
            self._output.flush()
        self._output = self._above = None
