from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import read_tensors
from vllama.export.llama import open_llama
from vllama.export.staging import writing
from vllama.export.to_gguf import to_gguf
from vllama.runtime.errors import (
    BackendError,
    ContextOverflowError,
    DiskFullError,
    FileError,
    MissingFileError,
    ShapeError,
)
from vllama.runtime.llm.backbone import Backbone
from vllama.runtime.spec import ModelSpec, Sampling
from vllama.runtime.types import Embeds

GREEDY = Sampling(temperature=0, top_p=1.0, top_k=0, max_tokens=8)
N_CTX = 2048
LONG = [[1, *[300 + i % 200 for i in range(N_CTX - 100)]]]
SHORT = [[1, 300, 301, 302]]


@pytest.fixture
def backbone(tiny_gguf: Path) -> Iterator[Backbone]:
    with Backbone(tiny_gguf, N_CTX, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def undisturbed(tiny_gguf: Path) -> list[int]:
    with Backbone(tiny_gguf, N_CTX, threads=1) as backbone:
        return answer(backbone)


@pytest.fixture
def folder(vicuna_spec: ModelSpec, tiny_weights: Path, tmp_path: Path) -> Path:
    """A copy of the tiny language model that may be spoilt; its parent is the weights folder."""
    copy = tmp_path / vicuna_spec.files.llm.name
    copy.mkdir()
    for file in (tiny_weights / copy.name).iterdir():
        shutil.copyfile(file, copy / file.name)
    return copy


def answer(backbone: Backbone) -> list[int]:
    backbone.prefill(SHORT)
    return list(backbone.generate(GREEDY, 0))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda raw: raw[: len(raw) // 2], "corrupted or incomplete"),
        (lambda raw: raw[:-1000], "corrupted or incomplete"),
        (lambda raw: raw[:1000], "key-value"),
        (lambda raw: b"", "magic"),
        (lambda raw: bytes(range(256)) * 20, "magic"),
        (lambda raw: b"GGUF" + b"\xff" * 200, "version"),
    ],
    ids=["half", "end-cut-off", "header-cut", "empty", "garbage", "wrong-version"],
)
def test_a_broken_gguf_is_refused_with_the_reason(
    spoil: Callable[[bytes], bytes], reason: str, tiny_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(spoil(tiny_gguf.read_bytes()))
    with pytest.raises(FileError, match=rf"broken\.gguf: llama\.cpp cannot load it: .*{reason}"):
        Backbone(broken, N_CTX)
    assert capfd.readouterr() == ("", "")


def test_a_missing_gguf_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"llm\.gguf"):
        Backbone(tmp_path / "llm.gguf", N_CTX)


def test_weights_that_are_not_finite_are_found_at_the_first_answer(
    folder: Path, vicuna_spec: ModelSpec, tmp_path: Path
) -> None:
    tensors = read_tensors(folder)
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    to_gguf(open_llama(vicuna_spec, tmp_path), vicuna_spec, tmp_path / "nan.gguf", "F16")
    with (
        Backbone(tmp_path / "nan.gguf", N_CTX, threads=1) as backbone,
        pytest.raises(BackendError, match="logits are not finite"),
    ):
        backbone.prefill(SHORT)


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit on memory as Linux does")
def test_a_context_that_does_not_fit_the_memory_is_refused(tiny_gguf: Path) -> None:
    script = f"""
import resource
from pathlib import Path
from vllama.runtime.llm.backbone import Backbone
from vllama.runtime.errors import BackendError
path = Path({str(tiny_gguf)!r})
Backbone(path, 64, threads=1).close()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
try:
    Backbone(path, 1 << 20, threads=1)
except BackendError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("no context of 1048576 positions: "), done
    assert done.stdout.endswith("; use a smaller n_ctx\n")


def test_embeds_the_model_cannot_take_leave_it_usable(backbone: Backbone, undisturbed: list[int]) -> None:
    good = np.ones((4, backbone.hidden_size), np.float32)
    for data in (np.full_like(good, np.nan), good[:, 1:].copy(), np.pad(good, ((0, 0), (0, 1)))):
        with pytest.raises(ShapeError):
            backbone.prefill([[1], Embeds(data, "video"), [300]])
    assert answer(backbone) == undisturbed


def test_a_prompt_longer_than_the_context_leaves_it_usable(backbone: Backbone, undisturbed: list[int]) -> None:
    with pytest.raises(ContextOverflowError, match=f"{N_CTX} tokens"):
        backbone.prefill([[1, *[300] * (N_CTX - 1)]])
    assert answer(backbone) == undisturbed


def test_a_prompt_cancelled_from_another_thread_stops_and_the_next_one_is_answered(
    backbone: Backbone, undisturbed: list[int]
) -> None:
    over = threading.Event()

    def cancel() -> None:
        while not over.wait(0.002):
            backbone.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    decoded = backbone.prefill(LONG)
    assert list(backbone.generate(GREEDY, 0)) == []
    assert backbone.finish == "cancelled"
    over.set()
    thread.join()
    assert decoded < len(LONG[0])
    assert answer(backbone) == undisturbed


def test_a_cancelled_prompt_goes_on_where_it_was_left(backbone: Backbone, tiny_gguf: Path) -> None:
    canceller = threading.Timer(0.02, backbone.cancel)
    canceller.start()
    decoded = backbone.prefill(LONG)
    canceller.join()
    rest = backbone.prefill(LONG)
    assert rest == max(1, len(LONG[0]) - decoded)
    with Backbone(tiny_gguf, N_CTX, threads=1) as fresh:
        fresh.prefill(LONG)
        np.testing.assert_allclose(backbone.logits(), fresh.logits(), atol=2e-2)


def test_an_answer_cancelled_from_another_thread_stops_and_the_next_one_is_whole(
    backbone: Backbone, undisturbed: list[int]
) -> None:
    third = threading.Event()

    def cancel() -> None:
        third.wait()
        backbone.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    backbone.prefill(SHORT)
    made = 0
    for _ in backbone.generate(replace(GREEDY, max_tokens=N_CTX), 0):
        made += 1
        if made == 3:
            third.set()
            thread.join()
    assert made == 3
    assert backbone.finish == "cancelled"
    assert answer(backbone) == undisturbed


def _interrupt() -> None:
    """Ctrl-C, from another thread."""
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)
    else:
        os.kill(os.getpid(), signal.SIGINT)  # which wakes the main thread


def test_ctrl_c_stops_a_prompt_at_once_and_the_next_one_is_answered(backbone: Backbone, undisturbed: list[int]) -> None:
    asked = LONG

    def ask_until_interrupted() -> None:
        nonlocal asked
        threading.Timer(0.03, _interrupt).start()
        for first in count(300):
            asked = [[1, 300 + first % 100, *LONG[0][2:]]]
            backbone.prefill(asked)

    with pytest.raises(KeyboardInterrupt):
        ask_until_interrupted()
    left = backbone.prefill(asked)
    assert left > 1 or sys.platform == "win32"  # where a wait is not interrupted, and the prompt was read by then
    assert answer(backbone) == undisturbed


def test_a_missing_shard_is_named(folder: Path, vicuna_spec: ModelSpec) -> None:
    tensors = read_tensors(folder)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model-00001-of-00002.safetensors")
    with pytest.raises(MissingFileError, match=r"model-00002-of-00002\.safetensors"):
        open_llama(vicuna_spec, folder.parent)
    index = {"weight_map": dict.fromkeys(tensors, "model-00007-of-00002.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(MissingFileError, match=r"model-00007-of-00002\.safetensors"):
        open_llama(vicuna_spec, folder.parent)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path, vicuna_spec: ModelSpec) -> None:
    tensors = read_tensors(folder)
    name, hidden = "model.layers.1.mlp.up_proj.weight", vicuna_spec.llm.hidden_size
    tensors[name] = tensors[name][:-1].contiguous()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(FileError, match=rf"model\.safetensors: {name} is .*\(\d+, {hidden}\).*\(\d+, {hidden}\)"):
        open_llama(vicuna_spec, folder.parent)


def test_a_missing_tensor_is_named_with_its_shape(folder: Path, vicuna_spec: ModelSpec) -> None:
    tensors = read_tensors(folder)
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(FileError, match=rf"model\.norm\.weight \({vicuna_spec.llm.hidden_size},\)"):
        open_llama(vicuna_spec, folder.parent)


def test_an_unknown_tensor_is_named(folder: Path, vicuna_spec: ModelSpec) -> None:
    tensors = read_tensors(folder)
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(FileError, match=r"q_proj\.bias \(3,\) is no tensor of a LLaMA"):
        open_llama(vicuna_spec, folder.parent)


def test_an_export_that_fails_leaves_no_file(folder: Path, vicuna_spec: ModelSpec, tmp_path: Path) -> None:
    def fail(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_gguf(open_llama(vicuna_spec, folder.parent), vicuna_spec, tmp_path / "llm.gguf", "F16", fail)
    assert not (tmp_path / "llm.gguf").exists()
    path = tmp_path / "absent" / "llm.gguf"
    with pytest.raises(FileError, match=re.escape(f"{path}: No such file or directory; ")), writing("llm", tmp_path):
        to_gguf(open_llama(vicuna_spec, folder.parent), vicuna_spec, path, "F16")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that is always full")
def test_a_full_disk_is_reported_as_such(folder: Path, vicuna_spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "llm.gguf").symlink_to("/dev/full")
    full = re.escape(f"llm F16: no space left in {tmp_path}; free some")
    with pytest.raises(DiskFullError, match=full), writing("llm F16", tmp_path):
        to_gguf(open_llama(vicuna_spec, folder.parent), vicuna_spec, tmp_path / "llm.gguf", "F16")
    assert not (tmp_path / "llm.gguf").is_symlink()
