from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import read_tensors
from vllama.export.fidelity import _kl, fixed_prompts, llm_fidelity
from vllama.export.llama import LlamaFolder, open_llama
from vllama.export.to_gguf import to_gguf
from vllama.runtime.bundle import Bundle, open_bundle
from vllama.runtime.llm.llama_context import LlamaContext
from vllama.runtime.prompt import Media, Piece, Turn, build_prompt
from vllama.runtime.spec import ModelSpec
from vllama.runtime.types import Embeds

Gguf = Callable[..., Path]


@pytest.fixture(scope="module")
def llama(vicuna_spec: ModelSpec, tiny_weights: Path) -> LlamaFolder:
    return open_llama(vicuna_spec, tiny_weights)


@pytest.fixture(scope="module")
def gguf(vicuna_spec: ModelSpec, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Gguf:
    """The tiny language model as a GGUF, its head changed first."""
    source = tiny_weights / vicuna_spec.files.llm.name

    def make(change: Callable[[torch.Tensor], torch.Tensor] = lambda head: head, quant: str = "F32") -> Path:
        folder = tmp_path_factory.mktemp("llm")
        llama = folder / source.name
        llama.mkdir()
        for path in source.iterdir():
            shutil.copyfile(path, llama / path.name)
        tensors = read_tensors(llama)
        tensors["lm_head.weight"] = change(tensors["lm_head.weight"]).contiguous()
        save_file(tensors, llama / "model.safetensors")
        to_gguf(open_llama(vicuna_spec, folder), vicuna_spec, folder / "llm.gguf", quant)
        return folder / "llm.gguf"

    return make


@pytest.fixture(scope="module")
def prompts(vicuna_spec: ModelSpec) -> list[list[Piece]]:
    rng = np.random.default_rng(0)
    video = Embeds(rng.standard_normal((5, vicuna_spec.llm.hidden_size)).astype(np.float32), "video")
    questions = ("What is it?", "Who sings?", "Where?")
    return [build_prompt([Turn(question, Media(video=video))], vicuna_spec) for question in questions[:1]] + [
        build_prompt([Turn(question)], vicuna_spec) for question in questions[1:]
    ]


def test_model_judged_by_itself_costs_nothing(llama: LlamaFolder, gguf: Gguf, prompts: list[list[Piece]]) -> None:
    steps: list[tuple[int, int]] = []
    row = llm_fidelity(llama, gguf(), prompts, "F32", 1, lambda *step: steps.append(step))
    assert (row.part, row.precision) == ("llm", "F32")
    assert row.kl == pytest.approx(0, abs=1e-8)
    assert (row.same_top, row.flips, row.prompts) == (1.0, 0, 3)
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1] > 0


def test_the_end_of_an_answer_is_judged_too(
    llama: LlamaFolder, gguf: Gguf, prompts: list[list[Piece]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaContext, "is_end", lambda context, token: True)  # no answer of random weights ends
    row = llm_fidelity(llama, gguf(lambda head: head.roll(1, 0)), prompts, "rolled", 1)
    assert (row.same_top, row.flips) == (0.0, len(prompts))


def test_sharper_model_differs_and_flips_nothing(llama: LlamaFolder, gguf: Gguf, prompts: list[list[Piece]]) -> None:
    row = llm_fidelity(llama, gguf(lambda head: 2 * head), prompts, "x2", 1)
    assert row.kl is not None
    assert row.kl > 1e-3
    assert (row.same_top, row.flips) == (1.0, 0)


def test_model_with_other_words_flips_every_answer(llama: LlamaFolder, gguf: Gguf, prompts: list[list[Piece]]) -> None:
    row = llm_fidelity(llama, gguf(lambda head: head.roll(1, 0)), prompts, "rolled", 1)
    assert row.same_top is not None
    assert row.same_top < 0.2
    assert row.flips == len(prompts)


def test_divergence_is_that_of_the_reference_from_the_other_in_nats() -> None:
    reference = np.log(np.array([[1, 3], [1, 1], [5, 5]], np.float32))
    other = np.log(np.array([[1, 1], [1, 3], [1, 1]], np.float32))
    wanted = [0.25 * np.log(0.5) + 0.75 * np.log(1.5), 0.5 * np.log(2) + 0.5 * np.log(2 / 3), 0]
    np.testing.assert_allclose(_kl(reference, other), wanted, atol=1e-6)
    np.testing.assert_allclose(_kl(reference + 300, other - 300), wanted, atol=1e-4)


def test_fixed_prompts_see_and_hear_and_are_the_same_every_time(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    prompts, again = fixed_prompts(bundle), fixed_prompts(bundle)
    kinds = [tuple(piece.modality for piece in prompt if isinstance(piece, Embeds)) for prompt in prompts]
    assert kinds == [("video",), ("audio", "video"), ()] * 4
    for one, other in zip(prompts, again, strict=True):
        for a, b in zip(one, other, strict=True):
            if isinstance(a, Embeds):
                assert isinstance(b, Embeds)
                assert np.isfinite(a.data).all()
                np.testing.assert_array_equal(a.data, b.data)
            else:
                assert a == b


def test_fixed_prompts_of_a_model_without_sound_do_not_hear(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    deaf = replace(bundle.spec, audio=None, files=replace(bundle.spec.files, al=None))
    prompts = fixed_prompts(Bundle(bundle.folder, bundle.manifest, deaf))
    assert [sum(isinstance(piece, Embeds) for piece in prompt) for prompt in prompts] == [1, 0] * 4
