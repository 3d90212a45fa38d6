"""What of the scripts beside the tests can be seen without a GPU: that nothing of what they found is lost."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from vllama.runtime.errors import BackendError
from vllama.runtime.spec import find_spec


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """One of them, imported."""
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_step_that_is_stopped_keeps_what_it_had_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = script("run", monkeypatch)
    monkeypatch.setattr(run, "_LEAST_SECONDS", 2)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    started = time.monotonic()
    child = "import time; print('found'); time.sleep(100)"
    code = f"import subprocess, sys; print('first'); subprocess.run([sys.executable, '-c', {child!r}])"
    done = run.run(started, Path(sys.executable), "-c", code)
    assert time.monotonic() - started < 30
    assert (done.returncode, done.stdout) == (124, "first\nfound\n\nstopped after 2 s\n")
    assert "first\nfound\n" in capsys.readouterr().out


def test_step_that_ends_keeps_its_code_and_both_its_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    run = script("run", monkeypatch)
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    done = run.run(time.monotonic() + 60, Path(sys.executable), "-c", code)
    assert (done.returncode, done.stdout) == (3, "out\nerr\n")


def test_way_that_cannot_run_is_left_out_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = script("bench_gpu", monkeypatch)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 0))
    closed: list[str] = []

    def way(name: str, most: int, error: Exception) -> object:
        @contextmanager
        def opened() -> Iterator[Callable[[np.ndarray], np.ndarray]]:
            def run(pixels: np.ndarray) -> np.ndarray:
                if len(pixels) > most:
                    raise error
                return pixels

            yield run
            closed.append(name)

        return bench.Way(name, opened)

    ways = [
        way("too large", 1, torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")),
        way("refused", 0, BackendError("frames.engine: TensorRT cannot run it")),
        way(bench.EAGER, 2, AssertionError()),
    ]
    bench.measure(ways, [1, 2], find_spec("miniature"), 1, 1e12)
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        "- too large is left out: CUDA out of memory. Tried to allocate",
        "- refused is left out: frames.engine: TensorRT cannot run it",
    ]
    assert [line.split(" | ")[:2] for line in said[4:]] == [[f"| {bench.EAGER}", "1"], [f"| {bench.EAGER}", "2"]]
    assert closed == ["too large", "refused", bench.EAGER]
