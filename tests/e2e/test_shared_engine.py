"""One engine in a program of several threads and processes."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vllama.runtime import BackendError, Chat, Engine, Sampling, Span, Timeline, Usage

_QUESTIONS = ("What shape is it?", "What do you hear?", "What happens?")
_GREEDY = Sampling.greedy(24)
_HOT = Sampling(temperature=5.0, top_p=1.0, top_k=0, max_tokens=24)  # the answers to two questions differ
_BUSY = (
    "the engine is answering in another thread; hold a lock of your own for a whole answer, "
    "or open one engine per thread"
)
_PATIENCE = 20.0


def _opened() -> Engine:
    return Engine.open("miniature", device="cpu", threads=1, n_ctx=512)


def _blank(engine: Engine) -> Timeline:
    """A clip in which nothing was seen: a question about it is words alone."""
    return Timeline(engine.bundle.encoders_hash, "", "video", 0, 1.0, 1.0, sound=False)


def _read(chat: Chat, question: str, sampling: Sampling = _GREEDY) -> Usage:
    *_, last = chat.ask(question, sampling=sampling, seed=0)
    assert last.usage is not None
    return last.usage


@pytest.fixture
def engine() -> Iterator[Engine]:
    with _opened() as engine:
        yield engine


class _Held:
    """A call of llama.cpp that does not begin before `go_on`."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str = "decode") -> None:
        llama = engine.backbone._llama
        self._call = getattr(llama, name)
        self.inside, self.go_on = threading.Event(), threading.Event()
        monkeypatch.setattr(llama, name, self.call)

    def call(self, *arguments: object) -> object:
        self.inside.set()
        assert self.go_on.wait(_PATIENCE)
        return self._call(*arguments)


def test_while_a_piece_of_an_answer_is_made_other_threads_are_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = _blank(engine)
    other, asked = engine.chat(blank), engine.yes_no("Is there a circle?", blank)
    whole = _read(engine.chat(blank), _QUESTIONS[0])
    other.clear()
    held = _Held(engine, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(_read, engine.chat(blank), _QUESTIONS[0])
        assert held.inside.wait(_PATIENCE)
        for use in (
            lambda: next(other.ask("And?")),
            other.prepare,
            lambda: asked.score(Span.whole()),
            lambda: engine.yes_no("Is it?", blank),
        ):
            with pytest.raises(BackendError) as error:
                use()
            assert str(error.value) == _BUSY
        held.go_on.set()
        assert answer.result(_PATIENCE).token_ids == whole.token_ids


def test_answers_of_several_threads_are_their_own_or_refused(engine: Engine) -> None:
    blank = _blank(engine)
    right = {question: _read(engine.chat(blank), question, _HOT).token_ids for question in _QUESTIONS}
    assert len(set(right.values())) == 3
    wrong: list[object] = []
    said: list[str] = []

    def ask(question: str) -> None:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            try:
                usage = _read(engine.chat(blank), question, _HOT)
            except BackendError as error:
                said.append(str(error))
                time.sleep(0.002)
                continue
            whole = right[question]
            expected = whole[: len(usage.token_ids)] if usage.finish == "cancelled" else whole
            if usage.token_ids != expected:
                wrong.append((question, usage.finish, usage.answer))

    threads = [threading.Thread(target=ask, args=(question,)) for question in _QUESTIONS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert set(said) <= {_BUSY}
    assert {question: _read(engine.chat(blank), question, _HOT).token_ids for question in _QUESTIONS} == right


def test_each_piece_of_an_answer_may_come_in_another_thread(engine: Engine) -> None:
    whole = _read(engine.chat(_blank(engine)), _QUESTIONS[0]).answer
    answer, text = engine.chat(_blank(engine)).ask(_QUESTIONS[0], sampling=_GREEDY, seed=0), ""
    for _ in range(100):
        with ThreadPoolExecutor(1) as pool:
            delta = pool.submit(next, answer, None).result(_PATIENCE)
        if delta is None:
            break
        text += delta.text
    assert text == whole


def test_close_from_another_thread_ends_the_answer_and_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _opened()
    chat, held = engine.chat(_blank(engine)), _Held(engine, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(_read, chat, _QUESTIONS[0])
        assert held.inside.wait(_PATIENCE)
        closed = pool.submit(engine.close)
        time.sleep(0.05)
        assert not closed.done()
        held.go_on.set()
        closed.result(_PATIENCE)
        assert answer.result(_PATIENCE).finish == "cancelled"
    with pytest.raises(BackendError, match="the language model was closed; open it again"):
        next(chat.ask("And?"))


def test_close_waits_for_a_question_that_is_spelled_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _opened()
    chat, held = engine.chat(_blank(engine)), _Held(engine, monkeypatch, "tokenize")
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(_read, chat, _QUESTIONS[0])
        assert held.inside.wait(_PATIENCE)
        closed = pool.submit(engine.close)
        time.sleep(0.05)
        assert not closed.done()
        held.go_on.set()
        closed.result(_PATIENCE)
        with pytest.raises(BackendError) as error:
            answer.result(_PATIENCE)
    assert str(error.value) == "the language model was closed; open it again"


def test_an_engine_that_nobody_closed_leaves_no_thread() -> None:
    before = threading.active_count()
    engine = _opened()
    chat = engine.chat(_blank(engine))
    _read(chat, _QUESTIONS[0], Sampling.greedy(2))
    del engine, chat
    gc.collect()
    assert threading.active_count() == before


_FORK = """
import os, sys, threading
from vllama.runtime import Engine, Sampling, Timeline, VllamaError
engine = Engine.open("miniature", device="cpu", threads=2, n_ctx=512)
timeline = engine.index(sys.argv[1])
chat = engine.chat(timeline)
list(chat.ask("What?", sampling=Sampling.greedy(2)))
chat.prepare()
child = os.fork()
if child == 0:
    for use in (
        lambda: engine.index(sys.argv[1], fps=7.0),
        lambda: engine.chat(timeline),
        lambda: next(chat.ask("And?")),
        lambda: chat.prepare(),
        lambda: engine.watch(camera=sys.argv[1]),
        lambda: engine.backbone.save(),
    ):
        try:
            use()
        except VllamaError as error:
            print(error)
    engine.close()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
print(len(list(chat.ask("And?", sampling=Sampling.greedy(2)))) > 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")
def test_an_engine_does_not_live_through_a_fork_and_says_so(clip: Path, cache: Path) -> None:
    run = subprocess.run([sys.executable, "-c", _FORK, clip], capture_output=True, text=True, timeout=60)
    said = "this engine was opened before a fork; open one in each process\n"
    assert (run.stdout, run.stderr, run.returncode) == (6 * said + "True\n", "", 0)


def test_a_closed_engine_begins_nothing() -> None:
    engine = _opened()
    engine.close()
    with pytest.raises(BackendError, match="the language model was closed; open it again"):
        engine.chat(_blank(engine))
    with pytest.raises(BackendError, match="the encoders were closed; open the model again"):
        engine.watch(camera="no such camera")
