"""The language model: prompt pieces in, tokens out; reuses the KV cache, can be cancelled."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from ..errors import BackendError, ContextOverflowError, ShapeError, SpecError
from ..forks import check_process
from ..machine import physical_cores
from ..prompt import ControlToken, Piece
from ..spec import Sampling
from ..types import Embeds, Finish, Float32, is_whole
from .llama_context import Kv, LlamaContext, LlmSettings, Rows
from .rows import Key, KvPrefix, batch_of, common, keys_of, runs_of
from .sampler import Sampler
from .worker import Call, Worker

_CLOSED = "the language model was closed; open it again"
MAX_THREADS = 512  # llama.cpp's own, beyond which it ends the process
MAX_N_CTX = 1 << 20  # far beyond it llama.cpp works for many seconds before it finds that memory is short


class Backbone:
    """One LLaMA in a GGUF file, with the KV cache of one conversation.

    llama.cpp runs on a thread of its own, so that Ctrl-C and `cancel` take effect while it computes. Use a backbone
    from one thread at a time, which `used` sees to; `cancel` and `close` may come from any. Once it is closed, and in a
    process that was forked off the one it was opened in, whatever needs the model raises a BackendError.

    Args:
        path: the GGUF file.
        n_ctx: positions of the context, prompt and answer together.
        threads: CPU threads; None: one per physical core that this process may use.
        gpu_layers, kv, n_ubatch, repack: as in `LlmSettings`.

    Attributes:
        hidden_size: width of an embeds row.
        n_vocab: number of token ids.
        finish: why the last answer ended, as in `Usage`.
        settings: what a `KvPrefix` depends on beside the model file.

    Raises:
        MissingFileError, FileError: there is no such file, or llama.cpp cannot read a LLaMA from it.
        BackendUnavailableError: llama-cpp-python cannot be loaded, or finds no GPU.
        BackendError: the context does not fit the memory, or the layers not that of the GPU.
        SpecError: n_ctx or threads is no useful number.
    """

    def __init__(
        self,
        path: Path,
        n_ctx: int,
        *,
        threads: int | None = None,
        gpu_layers: int = 0,
        kv: Kv = "f16",
        n_ubatch: int | None = None,
        repack: bool = False,
    ) -> None:
        threads = physical_cores() if threads is None else threads
        check_limits(n_ctx, threads)
        self._cancel = threading.Event()
        self._answer: threading.Event | None = None  # of the answer that the last prompt is for
        self._pid = os.getpid()
        self._closing = False
        self._use = threading.RLock()
        self._turn = threading.RLock()  # held while one answer takes the place of another, which is then not ended
        self._cached: list[Key] = []
        self._prompts = 0
        self._ahead: Call[int] | None = None
        self._ahead_keys: list[Key] = []
        self._logits: Float32 | None = None
        self._worker = Worker(self._cancel)
        self._opened: LlamaContext | None = None
        how = LlmSettings(threads, gpu_layers, kv, n_ubatch, repack)
        self.finish: Finish = "stop"
        try:
            self._opened = self._worker.run(lambda: LlamaContext(path, n_ctx, how, self._cancel))
        except BaseException:
            self._worker.close()
            raise
        self.settings = self._llama.settings
        self.hidden_size, self.n_vocab, self.n_ctx = self._llama.hidden_size, self._llama.n_vocab, self._llama.n_ctx

    @contextmanager
    def used(self) -> Iterator[None]:
        """For one thread alone: around a prompt and its first token, around each other token, around what is prepared.

        It is not held from one token to the next: another thread may ask then, and its question ends the answer.

        Raises:
            BackendError: another thread is in it, or the process was forked off.
        """
        check_process(self._pid)
        if not self._use.acquire(blocking=self._closing):  # what `close` ends comes after it, and says so
            raise BackendError(
                "the engine is answering in another thread; hold a lock of your own for a whole answer, "
                "or open one engine per thread"
            )
        try:
            yield
        finally:
            self._use.release()

    def check_open(self) -> None:
        """Raise BackendError where it was closed, or before a fork."""
        _ = self._llama

    def tokenize(self, pieces: Sequence[Piece]) -> list[list[int] | Embeds]:
        """Token ids of each piece by itself, so that each begins with SentencePiece's dummy space as upstream's does.

        The first text begins with <s>; where the prompt begins with embeds, <s> comes before them. Text never becomes
        a control token.

        Source: Video-LLaMA 64888c0, video_llama/conversation/conversation_video.py, Chat.get_context_emb.
        """
        llama = self._llama
        segments: list[list[int] | Embeds] = []
        if not pieces or not isinstance(pieces[0], str):
            segments.append([llama.bos])
        for piece in pieces:
            if isinstance(piece, Embeds):
                segments.append(piece)
            elif isinstance(piece, ControlToken):
                segments.append([llama.bos if piece.text == "<s>" else llama.eos])
            else:
                start = [] if segments else [llama.bos]
                segments.append(start + llama.tokenize(piece))
        return segments

    def prefill(self, segments: Sequence[list[int] | Embeds], cancelled: threading.Event | None = None) -> int:
        """Read a prompt; what the KV cache already holds of it, from its start, is not decoded again.

        After `cancel` the prompt is left half read: `generate` then yields nothing, and the next prefill goes on.

        Args:
            segments: token ids in [0, n_vocab), and embeds (n, hidden_size), finite.
            cancelled: of the answer that it is read for, which may need several prompts: who ends the answer sets it
                and calls `cancel` with it; nothing is read any more. None: a `cancel` from before does not count.

        Returns:
            Positions that were decoded, at least the last one unless it was cancelled.

        Raises:
            ShapeError: a segment does not fit the model.
            ContextOverflowError: the prompt and one token of answer do not fit n_ctx; nothing was decoded.
            BackendError: llama.cpp failed.
        """
        runs, keys = self._checked(segments)
        self._prompts += 1
        goes_on = self._reads_of(keys)
        if not goes_on:
            self._stop_ahead()
        with self._turn:
            self._answer = cancelled
            if not goes_on:
                self._cancel.clear()
            if self._closing or (cancelled is not None and cancelled.is_set()):
                self._cancel.set()
        ahead, self._ahead = self._ahead, None
        return self._worker.run(lambda: self._prefill(runs, keys, after=ahead))

    def prefill_ahead(self, segments: Sequence[list[int] | Embeds]) -> None:
        """Begin to read what a prompt will probably start with, and return at once.

        A `prefill` of what begins with it waits for it; any other, `save` and `restore` stop it wherever it is and keep
        what was read. It ends a running answer as `prefill` does.

        Raises: as `prefill` does.
        """
        self.check_open()
        self._stop_ahead()
        runs, keys = self._checked(segments)
        with self._turn:
            self._answer = None
            if not self._closing:
                self._cancel.clear()
        self._prompts += 1
        self._ahead, self._ahead_keys = self._worker.begin(lambda: self._prefill(runs, keys)), keys

    def keys(self, segments: Sequence[list[int] | Embeds]) -> list[Key]:
        """What the positions of a prompt are decoded from.

        Raises:
            ShapeError: a segment does not fit the model.
        """
        return [key for rows in runs_of(segments, self._llama) for key in keys_of(rows)]

    def cached(self, segments: Sequence[list[int] | Embeds]) -> int:
        """How many positions of a prompt, from its start, are in the KV cache, or will be when it is read ahead.

        Raises:
            ShapeError: a segment does not fit the model.
        """
        keys = self.keys(segments)
        if self._reads_of(keys):
            return len(self._ahead_keys)
        self._stop_ahead()
        return common(self._cached, keys)

    @property
    def reads_ahead(self) -> bool:
        """Whether what `prefill_ahead` began is still being read; may be asked from any thread."""
        ahead = self._ahead
        return ahead is not None and not ahead.done()

    @property
    def answers(self) -> bool:
        """Whether an answer is being made, its prompt included; may be asked from any thread."""
        return self._worker.is_awaited

    def wait_ahead(self) -> None:
        """Return when what `prefill_ahead` began has been read."""
        if self._ahead is not None:
            self._worker.result(self._ahead)

    def save(self) -> KvPrefix:
        """The KV cache as it is, for `restore`.

        Raises:
            BackendError: llama.cpp does not give it.
        """
        llama = self._llama
        self._stop_ahead()
        return KvPrefix(tuple(self._cached), self._worker.run(llama.state))

    def restore(self, prefix: KvPrefix) -> bool:
        """Go on from what `save` gave, here or in another process with the same model file and settings.

        Returns:
            False where it does not fit this context; the cache is empty then.
        """
        llama = self._llama
        self._stop_ahead()
        self._prompts += 1
        self._logits = None
        self._cached = []
        fits = len(prefix.keys) < self.n_ctx and self._worker.run(lambda: llama.set_state(prefix.data))
        fits = fits and self._worker.run(lambda: llama.length) == len(prefix.keys)
        if fits:
            self._cached = list(prefix.keys)
        return fits

    def logits(self) -> Float32:
        """(n_vocab,) of the last decoded position.

        Raises:
            BackendError: nothing was decoded, it was cancelled, or the model is closed.
        """
        _ = self._within
        if self._logits is None:
            raise BackendError("there are no logits; prefill a prompt first")
        return self._logits

    def generate(self, sampling: Sampling, seed: int) -> Generator[int, None, None]:
        """Token ids of an answer to the prompt; afterwards `finish` says why it ended.

        The next `prefill` ends it: what it would go on from is no longer there.
        The end token is not among them. A token is decoded when the next one is asked for, so an answer may be left
        at any point. The same prompt, sampling and seed give the same tokens.

        Raises:
            SpecError: the seed is negative.
            BackendError: llama.cpp failed.
        """
        return self._generate(Sampler(sampling, seed, self._within.bos), sampling.max_tokens, self._prompts)

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for, often not whole characters; control tokens are spelled out.

        Raises:
            ShapeError: there is no such token.
        """
        return self._within.piece(token)

    def cancel(self, answer: threading.Event | None = None) -> None:
        """End the running `prefill` or `generate` at once, from any thread; on a GPU after the running batch.

        Args:
            answer: end it only if that is the `cancelled` of its `prefill`; None: whatever it is.
        """
        with self._turn:
            if answer is None or answer is self._answer:
                self._cancel.set()

    def close(self) -> None:
        """Give the memory back; a running answer ends as `cancel` would end it, also that of another thread.

        A second call does nothing, and so does one in a process that was forked off.

        Raises:
            BackendError: what was being read ahead had failed; it is closed all the same.
        """
        if os.getpid() != self._pid:
            return
        with self._turn:
            self._closing = True
            self._cancel.set()
        with self._use:
            if self._opened is not None:
                with ExitStack() as stack:  # all of it, also where Ctrl-C comes meanwhile
                    stack.callback(self._worker.close)
                    stack.callback(self._free)
                    self._stop_ahead()

    def __enter__(self) -> Backbone:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def _llama(self) -> LlamaContext:
        """Every use of the model comes through here: llama.cpp would read memory that was given back."""
        if self._closing:
            raise BackendError(_CLOSED)
        return self._within

    @property
    def _within(self) -> LlamaContext:
        """For what began before `close` was called, which waits for it."""
        check_process(self._pid)
        if self._opened is None:
            raise BackendError(_CLOSED)
        return self._opened

    def _free(self) -> None:
        self._prompts += 1
        llama, self._opened = self._within, None
        self._worker.run(llama.close)

    def _stop_ahead(self) -> None:
        if self._ahead is not None:
            self._cancel.set()
            ahead, self._ahead = self._ahead, None
            self._worker.result(ahead)

    def _reads_of(self, keys: Sequence[Key]) -> bool:
        """Whether what is being read ahead is what a prompt begins with: to stop it would cost a batch."""
        goes_on = self.reads_ahead and not self._cancel.is_set()
        return goes_on and common(self._ahead_keys, keys) == len(self._ahead_keys)

    def _checked(self, segments: Sequence[list[int] | Embeds]) -> tuple[list[Rows], list[Key]]:
        runs = runs_of(segments, self._llama)
        keys = [key for rows in runs for key in keys_of(rows)]
        if not keys:
            raise ShapeError("the prompt is empty; give at least one token")
        if len(keys) >= self.n_ctx:
            media = sum(len(rows) for rows in runs if rows.ndim == 2)
            raise ContextOverflowError(
                f"prompt needs {len(keys)} tokens ({media} media, {len(keys) - media} text) and one for an answer, "
                f"and n_ctx is {self.n_ctx}; ask a shorter question, or use a larger --ctx-size"
            )
        return runs, keys

    def _prefill(self, runs: Sequence[Rows], keys: Sequence[Key], after: Call[int] | None = None) -> int:
        """after: what the worker did before, whose failure is this one's."""
        if after is not None:
            after.result()
        kept = min(common(self._cached, keys), len(keys) - 1)  # the last position is decoded for its logits
        self._logits = None
        llama = self._within
        llama.truncate(kept)
        del self._cached[kept:]
        for first in range(kept, len(keys), llama.n_batch):
            last = min(first + llama.n_batch, len(keys))
            rows = batch_of(runs, first, last, llama)
            if not self._decode(rows, keys[first:last], wanted=last == len(keys)):
                break
        return len(self._cached) - kept

    def _generate(self, sampler: Sampler, max_tokens: int, prompt: int) -> Generator[int, None, None]:
        self.finish = "cancelled"
        for made in range(1, max_tokens + 1):
            if self._cancel.is_set() or self._prompts != prompt:
                self.finish = "cancelled"
                return
            token = sampler.draw(self.logits())
            if self._within.is_end(token):
                self.finish = "stop"
                return
            yield token
            if made == max_tokens:
                self.finish = "length"
            elif len(self._cached) == self.n_ctx:
                self.finish = "context"
                return
            elif self._prompts == prompt and not self._worker.run(
                functools.partial(self._decode, np.array([token], np.int32), [token], True)
            ):
                return

    def _decode(self, rows: Rows, keys: Sequence[Key], wanted: bool) -> bool:
        """Append rows to the KV cache; False if that was cancelled."""
        if self._cancel.is_set():
            return False
        try:
            self._logits = self._within.decode(rows, wanted)
        finally:
            self._cached += keys[: self._within.length - len(self._cached)]
        return not self._cancel.is_set()


def check_limits(n_ctx: int | None, threads: int | None) -> None:
    """Raise SpecError for settings that llama.cpp cannot have; None: one that it can."""
    if threads is not None and not (is_whole(threads) and 1 <= threads <= MAX_THREADS):
        raise SpecError(f"threads is {threads}; use 1 to {MAX_THREADS}")
    if n_ctx is not None and not (is_whole(n_ctx) and 2 <= n_ctx <= MAX_N_CTX):
        raise SpecError(f"n_ctx is {n_ctx}; use 2 to {MAX_N_CTX}")
