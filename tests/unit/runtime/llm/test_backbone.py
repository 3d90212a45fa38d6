from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from tests.conftest import read_tensors
from vllama.export.llama import LlamaFolder, open_llama
from vllama.export.to_gguf import to_gguf
from vllama.runtime.errors import (
    BackendError,
    BackendUnavailableError,
    ContextOverflowError,
    FileError,
    MissingFileError,
    ShapeError,
    SpecError,
)
from vllama.runtime.llm.backbone import Backbone
from vllama.runtime.llm.llama_context import Rows
from vllama.runtime.llm.rows import KvPrefix
from vllama.runtime.prompt import ControlToken
from vllama.runtime.spec import ModelSpec, Sampling
from vllama.runtime.types import Embeds, Float32

GREEDY = Sampling.greedy(6)
DRAWN = Sampling(temperature=1.0, top_p=0.9, top_k=50, max_tokens=12)


@pytest.fixture(scope="module")
def llama(vicuna_spec: ModelSpec, tiny_weights: Path) -> LlamaFolder:
    return open_llama(vicuna_spec, tiny_weights)


@pytest.fixture(scope="module")
def path(llama: LlamaFolder, vicuna_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llm") / "llm.gguf"
    to_gguf(llama, vicuna_spec, path, "F16")
    return path


@pytest.fixture
def backbone(path: Path) -> Iterator[Backbone]:
    with Backbone(path, 64, threads=1) as opened:
        yield opened


@pytest.fixture
def media(vicuna_spec: ModelSpec) -> Callable[[int], Embeds]:
    def rows(seed: int, count: int = 4) -> Embeds:
        data = np.random.default_rng(seed).normal(size=(count, vicuna_spec.llm.hidden_size))
        return Embeds(data.astype(np.float32), "video")

    return rows


def test_only_the_first_text_begins_with_the_start_token(backbone: Backbone, media: Callable[[int], Embeds]) -> None:
    embeds = media(0)
    first, between, again, end = backbone.tokenize(["ab", embeds, "ab", ControlToken("</s>")])
    assert between is embeds
    assert isinstance(again, list)
    assert first == [1, *again]
    assert end == [2]


def test_a_prompt_that_begins_with_embeds_gets_its_start_token_before_them(
    backbone: Backbone, media: Callable[[int], Embeds]
) -> None:
    assert backbone.tokenize([media(0), "ab"])[0] == [1]
    assert backbone.tokenize([]) == [[1]]
    assert backbone.tokenize([""]) == [[1]]


@pytest.mark.parametrize("text", ["<s>", "</s>", "<unk>", "a</s><s>b", "\ud800", "nul\0nul"])
def test_text_never_becomes_a_control_token(backbone: Backbone, text: str) -> None:
    (tokens,) = backbone.tokenize([text])
    assert isinstance(tokens, list)
    assert not {0, 1, 2} & set(tokens[1:])
    assert b"".join(map(backbone.piece, tokens[1:])) == b" " + text.encode("utf-8", "replace")


def test_a_control_token_is_spelled_out(backbone: Backbone) -> None:
    assert [backbone.piece(1), backbone.piece(2)] == [b"<s>", b"</s>"]


def test_only_what_is_new_is_decoded(backbone: Backbone, media: Callable[[int], Embeds]) -> None:
    video = media(0)
    assert backbone.prefill([[1, 300, 301], video, [302, 303]]) == 9
    assert backbone.prefill([[1, 300, 301], video, [302, 304]]) == 1
    assert backbone.prefill([[1, 300, 301], video, [302, 304, 305, 306]]) == 2
    assert backbone.prefill([[1, 300], [301], Embeds(video.data.copy(), "video"), [302]]) == 1
    assert backbone.prefill([[1, 300, 301], media(1), [302]]) == 5


def test_the_last_position_is_always_decoded(backbone: Backbone) -> None:
    assert [backbone.prefill([[1, 300]]), backbone.prefill([[1, 300]]), backbone.prefill([[1]])] == [2, 1, 1]


def test_a_reused_prefix_gives_the_logits_of_a_fresh_start(
    path: Path, backbone: Backbone, media: Callable[[int], Embeds]
) -> None:
    prompt: list[list[int] | Embeds] = [[1, 300, 301], media(0), [302, 304]]
    backbone.prefill([[1, 300, 301], media(0), [302, 303, 303, 303]])
    backbone.prefill(prompt)
    with Backbone(path, 64, threads=1) as fresh:
        fresh.prefill(prompt)
        np.testing.assert_allclose(backbone.logits(), fresh.logits(), atol=5e-3)


def test_an_answer_stays_in_the_cache(backbone: Backbone) -> None:
    backbone.prefill([[1, 300]])
    answer = list(backbone.generate(GREEDY, 0))
    assert len(answer) == GREEDY.max_tokens
    assert backbone.finish == "length"
    assert backbone.prefill([[1, 300, *answer, 301]]) == 2  # its last token was never decoded


def test_an_answer_can_be_left_and_asked_for_again(backbone: Backbone) -> None:
    backbone.prefill([[1, 300]])
    whole = list(backbone.generate(GREEDY, 0))
    backbone.prefill([[1, 300]])
    answer = backbone.generate(GREEDY, 0)
    assert [next(answer), next(answer)] == whole[:2]
    answer.close()
    backbone.prefill([[1, 300]])
    assert list(backbone.generate(GREEDY, 0)) == whole


def test_the_next_prompt_ends_an_answer(backbone: Backbone) -> None:
    backbone.prefill([[1, 300]])
    answer = backbone.generate(GREEDY, 0)
    next(answer)
    backbone.prefill([[1, 301]])
    assert (list(answer), backbone.finish) == ([], "cancelled")
    assert backbone.prefill([[1, 301]]) == 1


def test_what_was_saved_is_gone_on_with_by_another(path: Path, backbone: Backbone) -> None:
    prompt: list[list[int] | Embeds] = [[1, 300, 301, 302]]
    backbone.prefill(prompt)
    prefix = backbone.save()
    with Backbone(path, 64, threads=1) as other:
        other.prefill([[1, 400]])
        assert other.restore(prefix)
        with pytest.raises(BackendError, match="there are no logits"):
            other.logits()
        assert other.cached(prompt) == 4
        assert other.prefill(prompt) == 1
        np.testing.assert_allclose(other.logits(), backbone.logits(), atol=5e-3)


def test_what_was_saved_and_does_not_fit_leaves_an_empty_cache(path: Path, backbone: Backbone) -> None:
    with Backbone(path, 128, threads=1) as longer:
        longer.prefill([[1, *[300] * 100]])
        long = longer.save()
    backbone.prefill([[1, 300]])
    short = backbone.save()
    for prefix in (long, replace(short, keys=(1,)), replace(short, data=short.data[:-8])):
        backbone.prefill([[1, 300]])
        assert not backbone.restore(prefix)
        assert backbone.cached([[1, 300]]) == 0
        assert backbone.prefill([[1, 300]]) == 2


def test_what_is_saved_while_it_is_read_ahead_is_whole(path: Path) -> None:
    with Backbone(path, 2048, threads=1) as backbone:
        backbone.prefill_ahead([[1, *[300] * 2000]])
        prefix = backbone.save()
        assert backbone.restore(prefix)


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(backbone: Backbone) -> None:
    def answer(seed: int) -> list[int]:
        backbone.prefill([[1, 300]])
        return list(backbone.generate(DRAWN, seed))

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_an_answer_ends_when_the_context_is_full(backbone: Backbone) -> None:
    backbone.prefill([[1, *[300] * 60]])
    answer = list(backbone.generate(GREEDY, 0))
    assert (len(answer), backbone.finish) == (4, "context")


def test_the_end_token_ends_an_answer_and_is_not_part_of_it(
    vicuna_spec: ModelSpec, tiny_weights: Path, tmp_path: Path, backbone: Backbone
) -> None:
    backbone.prefill([[1, 300]])
    best = int(backbone.logits().argmax())
    folder = tmp_path / vicuna_spec.files.llm.name
    folder.mkdir()
    for file in (tiny_weights / folder.name).iterdir():
        shutil.copyfile(file, folder / file.name)
    tensors = read_tensors(folder)
    tensors["lm_head.weight"][2] = 2 * tensors["lm_head.weight"][best]
    save_file(tensors, folder / "model.safetensors")
    to_gguf(open_llama(vicuna_spec, tmp_path), vicuna_spec, tmp_path / "llm.gguf", "F16")
    with Backbone(tmp_path / "llm.gguf", 64, threads=1) as ending:
        ending.prefill([[1, 300]])
        assert list(ending.generate(GREEDY, 0)) == []
        assert ending.finish == "stop"


def test_a_prompt_longer_than_a_batch_is_read_in_parts(path: Path, media: Callable[[int, int], Embeds]) -> None:
    video = media(0, 200)
    with Backbone(path, 512, threads=1) as backbone:
        assert backbone.prefill([[1, *[300] * 150], video, [301]]) == 352
        assert backbone.prefill([[1, *[300] * 150], video, [302, 303]]) == 2
        assert backbone.prefill([[1, *[300] * 150], Embeds(video.data[:150], "video"), [302]]) == 151


def test_words_beside_media_are_read_in_one_batch(path: Path, media: Callable[[int, int], Embeds]) -> None:
    prompt: list[list[int] | Embeds] = [[1, 300, 301], media(0, 5), [302, 303], media(1, 3), [304]]
    with Backbone(path, 64, threads=1) as whole, Backbone(path, 64, threads=1) as parts:
        batches = batch_sizes(whole)
        whole.prefill(prompt)
        for end in range(1, len(prompt) + 1):
            parts.prefill(prompt[:end])
        assert batches == [14]
        np.testing.assert_allclose(whole.logits(), parts.logits(), atol=5e-3)


def test_what_is_read_ahead_is_finished_for_the_prompt_that_begins_with_it(
    path: Path, media: Callable[[int, int], Embeds]
) -> None:
    opening: list[list[int] | Embeds] = [[1, *[300] * 600], media(0, 200), [301]]
    with Backbone(path, 1024, threads=1) as backbone:
        batches = batch_sizes(backbone)
        backbone.prefill_ahead(opening)
        assert backbone.reads_ahead
        assert backbone.cached([*opening, [302]]) == 802
        assert backbone.prefill([*opening, [302, 303]]) == 2
        assert sum(batches) == 804  # nothing was read twice
        backbone.prefill_ahead([[1, *[301] * 600]])
        assert backbone.prefill([[1, 302]]) == 1


def test_what_fails_while_it_is_read_ahead_fails_the_prompt_that_begins_with_it(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, decode = threading.Event(), backbone._llama.decode

    def fail_once(rows: Rows, wanted: bool) -> Float32 | None:
        monkeypatch.setattr(backbone._llama, "decode", decode)
        asked.wait(10.0)
        raise BackendError("llama_decode returned 1")

    monkeypatch.setattr(backbone._llama, "decode", fail_once)
    backbone.prefill_ahead([[1, 300]])
    threading.Timer(0.05, asked.set).start()
    with pytest.raises(BackendError, match="llama_decode returned 1"):
        backbone.prefill([[1, 300, 301]])
    assert backbone.prefill([[1, 300, 301]]) == 3


def test_cancel_also_ends_what_is_read_ahead_and_the_prompt_after_it(path: Path) -> None:
    with Backbone(path, 1024, threads=1) as backbone:
        backbone.prefill_ahead([[1, *[300] * 800]])
        threading.Timer(0.02, backbone.cancel).start()
        assert backbone.prefill([[1, *[300] * 900]]) < 900
        assert list(backbone.generate(GREEDY, 0)) == []
        assert backbone.prefill([[1, *[300] * 900]]) > 0
        assert len(list(backbone.generate(GREEDY, 0))) == GREEDY.max_tokens


def test_a_cancelled_answer_reads_none_of_its_prompts_and_others_are_read(backbone: Backbone) -> None:
    cancelled = threading.Event()
    assert backbone.prefill([[1, 300]], cancelled) == 2
    cancelled.set()
    backbone.cancel()
    for prompt in ([1, 300, 301], [1, 302]):
        assert backbone.prefill([prompt], cancelled) == 0
        assert list(backbone.generate(GREEDY, 0)) == []
        assert backbone.finish == "cancelled"
    backbone.prefill_ahead([[1, 303, 304]])
    backbone.wait_ahead()
    assert backbone.cached([[1, 303, 304, 305]]) == 3
    assert backbone.prefill([[1, 303, 304, 305]], threading.Event()) == 1
    assert len(list(backbone.generate(GREEDY, 0))) == GREEDY.max_tokens


def test_cancel_that_comes_late_does_not_end_the_answer_that_came_after(backbone: Backbone) -> None:
    set_now, late = backbone._cancel.set, threading.Event()
    first, second = threading.Event(), threading.Event()
    backbone.prefill([[1, 300]], first)

    def set_late() -> None:
        if threading.current_thread() is canceller:
            late.wait(0.3)  # meanwhile the other prompt would be read
        set_now()

    backbone._cancel.set = set_late  # type: ignore[method-assign]
    canceller = threading.Thread(target=backbone.cancel, args=(first,))
    canceller.start()
    backbone.prefill([[1, 301]], second)
    late.set()
    canceller.join()
    assert len(list(backbone.generate(GREEDY, 0))) == GREEDY.max_tokens


def batch_sizes(backbone: Backbone) -> list[int]:
    """Of everything that llama.cpp is given from now on."""
    sizes: list[int] = []
    decode = backbone._llama.decode

    def counted(rows: Rows, wanted: bool) -> Float32 | None:
        sizes.append(len(rows))
        return decode(rows, wanted)

    backbone._llama.decode = counted  # type: ignore[method-assign]
    return sizes


def test_what_does_not_fit_the_model_is_refused(backbone: Backbone, media: Callable[[int], Embeds]) -> None:
    good = media(0).data
    nan = good.copy()
    nan[1, 1] = np.nan
    wrong: list[Any] = [good[:, :-1], good.astype(np.float64), good[0], nan, np.asfortranarray(good), good[::2]]
    for data in wrong:
        with pytest.raises(ShapeError, match="embeds"):
            backbone.prefill([[1], Embeds(data, "video"), [300]])
    for token in (-1, backbone.n_vocab, 2**40):
        with pytest.raises(ShapeError, match=f"token id {token} "):
            backbone.prefill([[1, token]])
        with pytest.raises(ShapeError, match=f"token id {token} "):
            backbone.piece(token)
    with pytest.raises(ShapeError, match="empty"):
        backbone.prefill([])


def test_a_prompt_that_leaves_no_room_is_refused_before_anything_is_decoded(
    backbone: Backbone, media: Callable[[int], Embeds]
) -> None:
    backbone.prefill([[1, 300]])
    with pytest.raises(ContextOverflowError, match=r"64 tokens \(4 media, 60 text\) .* n_ctx is 64"):
        backbone.prefill([[1, *[300] * 59], media(0)])
    assert backbone.prefill([[1, 300, 301]]) == 1
    assert backbone.prefill([[1, *[300] * 58], media(0)]) == 61


def test_there_are_no_logits_before_a_prompt(backbone: Backbone) -> None:
    with pytest.raises(BackendError, match="prefill a prompt first"):
        backbone.logits()
    with pytest.raises(BackendError, match="prefill a prompt first"):
        next(backbone.generate(GREEDY, 0))


def test_a_cancelled_prompt_gives_no_answer_and_the_next_one_does(backbone: Backbone) -> None:
    backbone.prefill([[1, 300]])
    backbone.cancel()
    assert list(backbone.generate(GREEDY, 0)) == []
    assert backbone.finish == "cancelled"
    backbone.prefill([[1, 300]])
    assert len(list(backbone.generate(GREEDY, 0))) == GREEDY.max_tokens


@pytest.fixture(scope="module")
def closed(path: Path) -> tuple[Backbone, KvPrefix]:
    """And what it had read; a call that came through to its library would fail, not end the process."""
    backbone = Backbone(path, 64, threads=1)
    backbone.prefill([[1, 300]])
    prefix, llama = backbone.save(), backbone._llama
    backbone.close()
    backbone.close()
    llama._lib = None  # type: ignore[assignment]
    return backbone, prefix


@pytest.mark.parametrize(
    "use",
    [
        lambda backbone, prefix: backbone.tokenize(["word"]),
        lambda backbone, prefix: backbone.prefill([[1]]),
        lambda backbone, prefix: backbone.prefill_ahead([[1]]),
        lambda backbone, prefix: backbone.keys([[1]]),
        lambda backbone, prefix: backbone.cached([[1, 300]]),
        lambda backbone, prefix: backbone.save(),
        lambda backbone, prefix: backbone.restore(prefix),
        lambda backbone, prefix: backbone.restore(replace(prefix, keys=(1,) * 64)),
        lambda backbone, prefix: backbone.logits(),
        lambda backbone, prefix: backbone.generate(GREEDY, 0),
        lambda backbone, prefix: backbone.piece(300),
    ],
)
def test_whatever_needs_the_model_says_that_it_was_closed(
    closed: tuple[Backbone, KvPrefix], use: Callable[[Backbone, KvPrefix], object]
) -> None:
    with pytest.raises(BackendError) as error:
        use(*closed)
    assert str(error.value) == "the language model was closed; open it again"


def test_an_answer_that_runs_when_it_is_closed_ends(path: Path) -> None:
    backbone = Backbone(path, 64, threads=1)
    backbone.prefill([[1, 300]])
    answer = backbone.generate(GREEDY, 0)
    next(answer)
    backbone.close()
    assert (list(answer), backbone.finish) == ([], "cancelled")
    backbone.cancel()
    assert not backbone.reads_ahead


def test_what_failed_while_it_was_read_ahead_is_said_when_it_is_closed(path: Path) -> None:
    before = threading.active_count()
    backbone, begun = Backbone(path, 64, threads=1), threading.Event()
    llama = backbone._llama

    def fail(rows: Rows, wanted: bool) -> Float32 | None:
        begun.set()
        raise BackendError("llama_decode returned -3")

    llama.decode = fail  # type: ignore[method-assign]
    backbone.prefill_ahead([[1, 300]])
    assert begun.wait(10.0)
    with pytest.raises(BackendError, match="llama_decode returned -3"):
        backbone.close()
    assert (llama._model, llama._context, threading.active_count()) == (None, None, before)
    backbone.close()


def test_closing_leaves_no_thread(path: Path) -> None:
    before = threading.active_count()
    for _ in range(3):
        with Backbone(path, 64, threads=1):
            pass
    with pytest.raises(MissingFileError):
        Backbone(path.with_name("absent.gguf"), 64)
    assert threading.active_count() == before


def test_arguments_that_make_no_sense_are_refused(path: Path, backbone: Backbone) -> None:
    for n_ctx in (1, 2**32 + 64):
        with pytest.raises(SpecError, match=f"n_ctx is {n_ctx}; use 2 to 1048576"):
            Backbone(path, n_ctx)
    for threads in (0, 513):
        with pytest.raises(SpecError, match=f"threads is {threads}; use 1 to 512"):
            Backbone(path, 64, threads=threads)
    with pytest.raises(SpecError, match="seed is -1"):
        backbone.generate(GREEDY, -1)


def test_layers_on_a_gpu_need_a_build_for_it(path: Path) -> None:
    import llama_cpp.llama_cpp as library

    if library.llama_supports_gpu_offload():
        pytest.skip("this build has GPU support")
    with pytest.raises(BackendUnavailableError, match="GPU"):
        Backbone(path, 64, gpu_layers=1)


def test_a_model_of_another_architecture_is_refused(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(
        path.read_bytes()
        .replace(b"llama.", b"qwen2.")
        .replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwen2", 1)
    )
    with pytest.raises(FileError, match="architecture is 'qwen2'"):
        Backbone(other, 64)


def test_sizes_are_those_of_the_model(backbone: Backbone, llama: LlamaFolder) -> None:
    assert (backbone.hidden_size, backbone.n_vocab, backbone.n_ctx) == (
        llama.config.hidden_size,
        llama.config.vocab_size,
        64,
    )
