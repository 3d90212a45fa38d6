"""`vllama bench` on the miniature, and what is left of it when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Vllama

_PATIENCE = 240.0
_FIELDS = {
    "model", "precision", "machine", "device", "llm", "limits", "stages", "index", "ready_ms", "prompt_tokens",
    "first_token_ms", "prefill_tokens_per_second", "decode", "peak_bytes",
}  # fmt: skip


def test_bench_needs_no_clip_prints_one_object_and_leaves_nothing(vllama: Vllama, tmp_path: Path) -> None:
    temporary, cache = tmp_path / "temporary", tmp_path / "cache"
    temporary.mkdir()
    done = vllama(
        "bench", "-m", "miniature", "--seconds", 0, "-t", 1, "--json",
        env={"TMPDIR": str(temporary), "VLLAMA_CACHE": str(cache)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert set(found) == _FIELDS
    assert list(found["stages"]) == ["decode", "frame", "video", "clip", "audio"]
    assert found["first_token_ms"]["ahead"] < found["first_token_ms"]["cold"]
    assert found["peak_bytes"]["answering"] < found["peak_bytes"]["encoding"]
    assert list(temporary.glob("vllama*")) == []
    assert [path.name for path in cache.iterdir()] == ["verified"]  # no timeline among the user's


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("how", "code"), [("SIGINT", 130), ("SIGKILL", -9)])
def test_stopping_it_ends_its_processes(how: str, code: int, tmp_path: Path) -> None:
    sent = getattr(signal, how)  # not at the top: Windows has not both
    environment = {**os.environ, "TMPDIR": str(tmp_path), "VLLAMA_CACHE": str(tmp_path.parent / "cache")}
    command = [sys.executable, "-m", "vllama.cli", "bench", "-m", "miniature", "--seconds", "60"]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    _wait(lambda: any(tmp_path.glob("vllama-bench-*/fp32.onnx")))  # its first process is at work
    os.killpg(process.pid, sent) if how == "SIGINT" else process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=_PATIENCE)
    assert (process.returncode, stdout, b"Traceback" in stderr) == (code, b"", False), stderr
    _wait(lambda: not _runs(process.pid))
    if how == "SIGINT":
        assert list(tmp_path.glob("vllama*")) == []


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("-m", "nothing"), 3, "there are miniature; `vllama export` makes those that models.toml names"),
        (("-m", "miniature", "--device", "cuda:99"), 5, "vllama: "),
        (("-m", "miniature", "--engine", "openvino"), 2, "engine 'openvino' is unknown"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(
    options: tuple[str, ...], code: int, words: str, vllama: Vllama
) -> None:
    done = vllama("bench", *options)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def _runs(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not until():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
