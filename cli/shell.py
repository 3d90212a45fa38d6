"""What every conversation has, whatever it is about: lines in, answers out, commands that begin with a slash."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vllama.runtime import Chat, Sampling, Span, SpecError, VllamaError
from vllama.runtime.types import Long

from .newfile import write_new
from .options import clean
from .say import say

_EXIT = ("/exit", "/quit", "/bye")
_RUN_TOGETHER = re.compile(r"\d \d")  # two numbers
_REST_OF_SPAN = re.compile(r"- ?\d")


@dataclass(frozen=True)
class Asking:
    """How questions are asked: what the options say."""

    sampling: Sampling
    seed: int | None
    long: Long | None
    audio: bool
    as_json: bool
    summarise: bool = False


class Shell(ABC):
    """A conversation by lines; a subclass knows what it is about, and has commands of its own.

    Attributes:
        help: a line per command.
        commands: by name; each is given the rest of its line.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.span = Span.whole()
        self.help = {
            "/clear": "forget what was said",
            "/save FILE": "write the conversation to a text file",
            "/help": "this",
            "/exit": "leave (or Ctrl-D); Ctrl-C stops an answer",
        }
        self.commands: dict[str, Callable[[str], None]] = {
            "at": self._at,
            "span": self._set_span,
            "clear": lambda rest: self.clear(),
            "save": self._save,
            "help": lambda rest: self._say_help(),
        }

    @abstractmethod
    def ask(self, question: str, span: Span) -> None:
        """Answer it, to stdout."""

    @abstractmethod
    def read_span(self, text: str) -> Span:
        """A span of time as people write it."""

    @abstractmethod
    def spoken(self, span: Span) -> str:
        """A span of time in words."""

    @property
    @abstractmethod
    def heading(self) -> str:
        """What the conversation is about, on one line."""

    @abstractmethod
    def prepare(self) -> None:
        """Do what can be done while the next question is typed; returns at once.

        Raises:
            VllamaError: it cannot be done, which the question will meet and say, too.
        """

    def clear(self) -> None:
        """Forget what was said."""
        self.chat.clear()

    def talk(self) -> str:
        """The conversation as a text."""
        return "\n\n".join(f"> {turn.question}\n{turn.answer}" for turn in self.chat.turns)

    def run(self, lines: Iterator[str]) -> None:
        """Until the lines end or /exit; an error is a line, and the conversation goes on."""
        self._prepare()
        for line in lines:
            text = clean(line.strip())
            if text.partition(" ")[0] in _EXIT:
                return
            try:
                if text.startswith("/"):
                    self._command(text[1:])
                elif text:
                    self.ask(text, self.span)
            except VllamaError as error:
                say(error)
            except KeyboardInterrupt:
                print("\nstopped", file=sys.stderr)
            self._prepare()

    def _prepare(self) -> None:
        try:
            self.prepare()
        except VllamaError:
            return  # the question will meet the same and say so
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        if name not in self.commands:
            raise SpecError(f"there is no command /{name}; /help lists them")
        self.commands[name](rest.strip())

    def _at(self, rest: str) -> None:
        words = rest.split()
        for count in range(len(words), 0, -1):  # "0:10 - 0:15 what", "1m 30s what"
            written, question = " ".join(words[:count]), " ".join(words[count:])
            span = self._span_of(written, question)
            if span is None:
                continue
            if question:
                self.ask(question, span)
                return
            break
        else:
            times = next((n for n, word in enumerate(words) if n and word[0] not in "-0123456789"), len(words))
            if words:
                self.read_span(" ".join(words[:times]).lower())  # says what is wrong with it
        raise SpecError(f"/at {rest}: no question; /help shows how to write it")

    def _span_of(self, written: str, question: str) -> Span | None:
        """None: it is none, or goes on in the question."""
        if _RUN_TOGETHER.search(written) or _REST_OF_SPAN.match(question):
            return None
        if written.endswith("-") and question[:1].isdigit():
            return None
        try:
            return self.read_span(written.lower())
        except SpecError:
            return None

    def _set_span(self, rest: str) -> None:
        self.span = self.read_span(rest)
        print(f"asking about {self.spoken(self.span)}", file=sys.stderr)

    def _save(self, rest: str) -> None:
        if not rest:
            raise SpecError("/save needs a file; write /save talk.txt")
        text = clean(f"{self.heading}\n\n{self.talk()}\n")  # the heading has the name of the file
        write_new(Path(rest), text.encode(), "a new file")
        print(f"wrote {rest}", file=sys.stderr)

    def _say_help(self) -> None:
        width = max(map(len, self.help))
        print("\n".join(f"{name:<{width}}  {text}" for name, text in self.help.items()), file=sys.stderr)
