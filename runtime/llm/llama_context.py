"""llama.cpp: one model and its KV cache behind checked calls; the library reads past the end of what does not fit."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, BackendUnavailableError, FileError, MissingFileError, ShapeError
from ..types import Float32
from .llama_library import first_error, forget_log, load_library, out_of_memory
from .llm_file import read_llm_facts
from .token_table import TokenTable

Rows = NDArray[np.int32] | Float32  # (n,) token ids, or (n, hidden_size) embeds
Kv = Literal["f32", "f16", "q8_0"]
UBATCH_CPU = 256  # docs/llm.md has the figures
UBATCH_GPU = 512  # llama.cpp's own choice
_ABORTED = 2
_GGML_TYPES: dict[Kv, int] = {"f32": 0, "f16": 1, "q8_0": 8}
_FLASH_ATTENTION_AUTO, _FLASH_ATTENTION_OFF = -1, 0


@dataclass(frozen=True)
class LlmSettings:
    """How llama.cpp runs a model.

    threads: of the CPU, at least 1. gpu_layers: the last so many layers and the output are on the GPU, which counts as
    one of them. kv: how the KV cache is stored; f32 also does without flash attention, to compare with the original.
    n_ubatch: rows that are computed at once; None: what suits the device. repack: a second copy of the weights in the
    order that this CPU's instructions like.
    """

    threads: int
    gpu_layers: int = 0
    kv: Kv = "f16"
    n_ubatch: int | None = None
    repack: bool = False


class LlamaContext:
    """A GGUF file opened by llama.cpp, and one sequence in its KV cache.

    One thread at a time uses the KV cache, and closes. Meanwhile others may use the vocabulary: `tokenize`, `piece`,
    `is_end` and the checks only read it. One that nobody holds any more gives its memory back by itself.

    Args:
        path: the GGUF file.
        n_ctx: positions of the KV cache.
        how: threads, GPU, KV cache.
        cancel: ends a running `decode` as soon as it is set.

    Attributes:
        hidden_size: width of an embeds row.
        n_vocab: number of token ids.
        n_batch: rows that one `decode` takes.
        bos, eos: ids of the start and the end token.
        settings: what `state` depends on beside the model file.

    Raises: as `Backbone` does.
    """

    def __init__(self, path: Path, n_ctx: int, how: LlmSettings, cancel: threading.Event) -> None:
        self._path = path
        self._how = how
        self._lib = load_library()
        # A few layers more or fewer on the GPU round as the others do; the CPU rounds differently.
        where = "with the GPU" if how.gpu_layers else "on the CPU"
        self.settings = f"llama-cpp-python {version('llama-cpp-python')}, {how.kv} cache, {where}"
        if how.gpu_layers and not self._lib.llama_supports_gpu_offload():
            raise BackendUnavailableError(
                "llama.cpp finds no GPU, or was built without support for one; see docs/llm.md, or use --gpu-layers 0"
            )
        self._abort = self._lib.ggml_abort_callback(lambda _: cancel.is_set())  # llama.cpp keeps no reference to it
        self._owned = ExitStack()  # a GPU's memory is not to be touched at the end of the process, or in a forked one
        weakref.finalize(self, _free, self._owned, os.getpid()).atexit = False
        self._context: int | None = None
        self._model = self._load_model()
        try:
            self._read_model()
            self._table = TokenTable(path, self.n_vocab, self.hidden_size)
            self._context = self._make_context(n_ctx)
            self._memory = self._lib.llama_get_memory(self._context)
            self.n_ctx = min(n_ctx, int(self._lib.llama_n_ctx(self._context)))
            self.n_batch = int(self._lib.llama_n_batch(self._context))
            if how.gpu_layers:
                self._take_memory()
        except BaseException:
            self.close()
            raise

    @property
    def length(self) -> int:
        """Positions in the KV cache."""
        return int(self._lib.llama_memory_seq_pos_max(self._memory, 0)) + 1

    def truncate(self, length: int) -> None:
        """Forget all positions from `length` on."""
        self._lib.llama_memory_seq_rm(self._memory, 0, length, -1)

    def state(self) -> NDArray[np.uint8]:
        """Everything the KV cache holds, as bytes that `set_state` takes.

        Raises:
            BackendError: llama.cpp does not give it.
        """
        size = int(self._lib.llama_state_seq_get_size(self._context, 0))
        data = np.empty(size, np.uint8)
        written = self._lib.llama_state_seq_get_data(
            self._context, data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), size, 0
        )
        if written != size:
            raise BackendError(f"llama.cpp saved {written} of {size} bytes of its KV cache; report it")
        return data

    def set_state(self, data: NDArray[np.uint8]) -> bool:
        """Replace the KV cache by what `state` gave; False, and an empty cache, where it does not fit this context.

        Only data whose checksum was verified may come here: llama.cpp trusts its contents.
        """
        self.truncate(0)
        forget_log()
        pointer = np.ascontiguousarray(data).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if self._lib.llama_state_seq_set_data(self._context, pointer, data.size, 0) == data.size:
            return True
        self.truncate(0)
        return False

    def decode(self, rows: Rows, wanted: bool) -> Float32 | None:
        """Append at most n_batch rows to the KV cache.

        Args:
            rows: checked by `check_tokens` or `check_embeds`.
            wanted: compute the logits of the last row.

        Returns:
            (n_vocab,) logits; None where they are not wanted, or where it was cancelled: see `length` then.

        Raises:
            BackendError: llama.cpp failed, or the logits are not finite.
        """
        assert 0 < len(rows) <= self.n_batch, (rows.shape, self.n_batch)
        outputs = np.zeros(len(rows), np.int8)
        outputs[-1] = wanted
        batch = self._lib.llama_batch()
        batch.n_tokens = len(rows)
        if rows.ndim == 1:
            batch.token = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        else:
            batch.embd = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        batch.logits = outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        forget_log()
        code = self._lib.llama_decode(self._context, batch)
        if code not in (0, _ABORTED):
            raise BackendError(f"llama_decode of {len(rows)} positions returned {code}: {first_error()}; report it")
        return self._read_logits() if wanted and code == 0 else None

    def embeds(self, rows: Rows) -> Float32:
        """(n, hidden_size) that checked rows go in as: of tokens, those of the token table."""
        return rows.astype(np.float32, copy=False) if rows.ndim == 2 else self._table.embeds(rows)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text with SentencePiece's dummy space, without <s>; text never becomes a control token."""
        raw = text.encode("utf-8", "replace")
        tokens = np.empty(len(raw) + 2, np.int32)  # at most one token per byte, and the dummy space
        target = tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        size = self._lib.llama_tokenize(self._vocab, raw, len(raw), target, tokens.size, False, False)
        assert 0 <= size <= tokens.size, (size, tokens.size)
        return [int(token) for token in tokens[:size]]

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; control tokens are spelled out."""
        self.check_tokens(np.array([token]))
        buffer = ctypes.create_string_buffer(64)
        size = self._lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = self._lib.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
        return buffer.raw[:size]

    def is_end(self, token: int) -> bool:
        """Whether a token of this vocabulary ends an answer."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def check_tokens(self, ids: NDArray[np.int64]) -> None:
        """Raise ShapeError for an id outside the vocabulary."""
        wrong = ids[(ids < 0) | (ids >= self.n_vocab)]
        if wrong.size:
            raise ShapeError(f"token id {wrong[0]} is outside 0 to {self.n_vocab - 1}; tokenise with this model")

    def check_embeds(self, data: Float32) -> None:
        """Raise ShapeError for rows that this model cannot take; NaN would stay in the KV cache."""
        if data.ndim != 2 or data.shape[1] != self.hidden_size or data.dtype != np.float32:
            raise ShapeError(
                f"embeds are {data.dtype} {data.shape} and the LLM takes float32 (n, {self.hidden_size}); "
                "use encoders and LLM of one model"
            )
        if not data.flags.c_contiguous or not np.isfinite(data).all():
            raise ShapeError(f"embeds {data.shape} are not C-contiguous and finite; encode the clip again")

    def close(self) -> None:
        """Give the memory back; a second call does nothing."""
        self._context = self._model = None
        self._owned.close()

    def _load_model(self) -> int | None:
        params = self._lib.llama_model_default_params()
        params.n_gpu_layers = self._how.gpu_layers
        if not self._how.gpu_layers:
            params.devices = _no_devices()
        params.use_extra_bufts = self._how.repack
        model = _load(self._lib, self._path, params)
        if model is None and self._how.gpu_layers and out_of_memory():
            raise BackendError(self._too_many_layers())
        if model is None:
            raise FileError(f"{self._path}: llama.cpp cannot load it: {first_error()}; export the model again")
        self._owned.callback(self._lib.llama_model_free, model)
        return model

    def _too_many_layers(self) -> str:
        asked = self._how.gpu_layers
        fewer = fewer_layers(min(asked, len(read_llm_facts(self._path).blocks) + 1))
        return f"the GPU's memory does not hold {asked} layers: {first_error()}; try --gpu-layers {fewer}"

    def _read_model(self) -> None:
        lib, architecture = self._lib, ctypes.create_string_buffer(64)
        lib.llama_model_meta_val_str(self._model, b"general.architecture", architecture, len(architecture))
        if architecture.value != b"llama":
            found = architecture.value.decode("utf-8", "replace")
            raise FileError(f"{self._path}: its architecture is {found!r}; give the GGUF of a LLaMA")
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.bos, self.eos = int(lib.llama_vocab_bos(self._vocab)), int(lib.llama_vocab_eos(self._vocab))
        if self.bos < 0 or self.eos < 0:
            raise FileError(f"{self._path}: its vocabulary has no start or end token; export the model again")
        self.hidden_size = int(lib.llama_model_n_embd_inp(self._model))
        self.n_vocab = int(lib.llama_vocab_n_tokens(self._vocab))

    def _make_context(self, n_ctx: int) -> int:
        how, params = self._how, self._lib.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = how.n_ubatch or (UBATCH_GPU if how.gpu_layers else UBATCH_CPU)
        params.n_threads = params.n_threads_batch = how.threads
        params.type_k = params.type_v = _GGML_TYPES[how.kv]
        # Without layers there a GPU would still take the KV cache, and the products of a long prompt.
        params.offload_kqv = params.op_offload = how.gpu_layers != 0
        params.flash_attn_type = _FLASH_ATTENTION_OFF if how.kv == "f32" else _FLASH_ATTENTION_AUTO
        params.abort_callback = self._abort
        forget_log()
        context: int | None = self._lib.llama_init_from_model(self._model, params)
        if context is None and how.gpu_layers and out_of_memory():
            raise BackendError(self._too_many_layers())
        if context is None:
            advice = "use --kv f16" if how.kv == "q8_0" and not out_of_memory() else "use a smaller n_ctx"
            raise BackendError(f"no context of {n_ctx} positions: {first_error()}; {advice}")
        self._owned.callback(self._lib.llama_free, context)
        return context

    def _take_memory(self) -> None:
        """What a GPU gives at the first batch alone, before the encoders are there, which can do with less of it."""
        try:
            self.decode(np.full(min(self.n_batch, self.n_ctx), self.bos, np.int32), wanted=False)
        except BackendError as error:
            if out_of_memory():
                raise BackendError(self._too_many_layers()) from error
            raise
        self.truncate(0)

    def _read_logits(self) -> Float32:
        values = self._lib.llama_get_logits_ith(self._context, -1)
        logits: Float32 = np.ctypeslib.as_array(values, (self.n_vocab,)).copy()
        if not np.isfinite(logits).all():
            raise BackendError(f"{self._path}: its logits are not finite; export the model again")
        return logits


def check_model(path: Path) -> None:
    """Read every weight of a GGUF file once.

    Raises:
        FileError: it cannot be loaded, or a weight is not finite.
        BackendUnavailableError: llama-cpp-python cannot be loaded.
    """
    lib = load_library()
    params = lib.llama_model_default_params()
    params.n_gpu_layers, params.use_extra_bufts, params.check_tensors = 0, False, True
    params.devices = _no_devices()
    model = _load(lib, path, params)
    if model is None:
        raise FileError(f"{path}: llama.cpp finds it damaged: {first_error()}; export the model again")
    lib.llama_model_free(model)


def _free(owned: ExitStack, opened_in: int) -> None:
    if os.getpid() == opened_in:
        owned.close()


def fewer_layers(refused: int) -> int:
    """How many layers to try where a GPU refused so many."""
    return refused * 3 // 4


@functools.cache
def _no_devices() -> ctypes.c_void_p:
    """An empty list of GPUs: without one llama.cpp takes memory of each GPU, for no layers too. Referenced for ever."""
    return ctypes.cast((ctypes.c_void_p * 1)(None), ctypes.c_void_p)


def _load(lib: ModuleType, path: Path, params: object) -> int | None:
    if not os.path.isfile(path):
        raise MissingFileError(f"{path}: there is no such file; export the model again")
    forget_log()
    model: int | None = lib.llama_model_load_from_file(os.fsencode(path), params)
    return model
