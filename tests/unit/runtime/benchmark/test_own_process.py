from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from vllama.runtime.benchmark.own_process import in_own_process
from vllama.runtime.errors import BackendError, FileError
from vllama.runtime.machine import peak_bytes

_JOBS = """
import os, struct
import numpy as np
from vllama.runtime.errors import FileError
from vllama.runtime.machine import peak_bytes

def add(a, b, say):
    say("adding")
    say("done")
    return a + b

def refuse(say):
    raise FileError("clip.mp4: is damaged; get it again")

def die(say):
    os._exit(9)

def die_in_a_message(say):
    there = say.__closure__[0].cell_contents
    os.write(there.fileno(), struct.pack("!i", 1000) + b"the first of a thousand bytes")
    os._exit(9)

def want_too_much(say):
    np.empty(1 << 50, np.uint8)

def peak(say):
    return peak_bytes()
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Functions that a fresh process can import."""
    (tmp_path / "jobs_of_own_process.py").write_text(_JOBS, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(importlib.sys.modules, "jobs_of_own_process", raising=False)  # type: ignore[attr-defined]
    return importlib.import_module("jobs_of_own_process")


def test_result_comes_back_after_all_that_was_said(jobs: ModuleType) -> None:
    said: list[str] = []
    assert in_own_process(jobs.add, 2, 3, say=said.append) == 5
    assert said == ["adding", "done"]


def test_its_error_is_raised_here(jobs: ModuleType) -> None:
    with pytest.raises(FileError, match=r"clip\.mp4: is damaged"):
        in_own_process(jobs.refuse, say=print)


def test_a_process_that_is_killed_is_an_error_not_a_wait(jobs: ModuleType) -> None:
    with pytest.raises(BackendError, match="die ended with 9"):
        in_own_process(jobs.die, say=print)


@pytest.mark.skipif(os.name == "nt", reason="its pipes have other messages")
def test_a_process_that_is_killed_in_the_middle_of_a_message_is_an_error(jobs: ModuleType) -> None:
    with pytest.raises(BackendError, match="die_in_a_message ended with 9"):
        in_own_process(jobs.die_in_a_message, say=print)


def test_memory_that_cannot_be_had_is_one_line(jobs: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        BackendError, match=r"^not enough memory for want_too_much \(Unable to allocate .*\); end other"
    ):
        in_own_process(jobs.want_too_much, say=print)
    assert capfd.readouterr() == ("", "")


def test_what_say_raises_is_not_taken_for_an_end(jobs: ModuleType) -> None:
    def closed(text: str) -> None:
        raise BrokenPipeError("stdout is closed")

    with pytest.raises(BrokenPipeError, match="stdout is closed"):
        in_own_process(jobs.add, 2, 3, say=closed)


def test_its_peak_of_memory_is_its_own(jobs: ModuleType) -> None:
    held = np.ones(60_000_000, np.float64)  # 480 MB
    mine, its = peak_bytes(), in_own_process(jobs.peak, say=print)
    if mine is None:
        pytest.skip("this system does not tell")
    assert mine > held.nbytes > its > 10_000_000
