"""What of the scripts beside the tests can be seen without a GPU: that nothing of what they found is lost."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from vllama.export.graphs import empty_graph
from vllama.runtime.bundle import open_bundle, shipped_bundle
from vllama.runtime.errors import BackendError, BackendUnavailableError, FileError, SpecError, VllamaError
from vllama.runtime.gpus import Gpu
from vllama.runtime.llm.devices import gpu_memory
from vllama.runtime.registry import find_spec

H200 = Gpu(0, "NVIDIA H200", "9.0", 141 << 30)
_RUN = Path(__file__).with_name("run.py")


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
    told: list[str] = []
    assert run.run(started, told.append, Path(sys.executable), "-c", code) == 124
    assert time.monotonic() - started < 30
    assert "".join(told) == "first\nfound\n\nstopped after 2 s\n"
    assert "first\nfound\n" in capsys.readouterr().out


def test_step_that_ends_keeps_its_code_and_both_its_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    run = script("run", monkeypatch)
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    told: list[str] = []
    assert run.run(time.monotonic() + 60, told.append, Path(sys.executable), "-c", code) == 3
    assert "".join(told) == "out\nerr\n"


def test_step_finds_what_the_caller_has_on_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = script("run", monkeypatch)
    (tmp_path / "carried.py").write_text("print('found')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    told: list[str] = []
    code = "import carried, vllama.runtime; print(vllama.runtime.__file__)"
    assert run.run(time.monotonic() + 60, told.append, Path(sys.executable), "-c", code) == 0
    assert told == ["found\n", f"{run.ROOT / '.dev' / 'vllama' / 'runtime' / '__init__.py'}\n"]


def test_the_clock_starts_after_installing_and_leaves_most_for_the_bench(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = script("run", monkeypatch)
    clock, ends, kept = [0.0], list[float](), list[int]()

    def installed() -> Path:
        clock[0] += 1000
        return Path("python")

    def step(end: float, told: Callable[[str], None], *_: object) -> int:
        ends.append(end - clock[0])
        told("found")
        kept.append(next(tmp_path.iterdir()).read_text("utf-8").count("found"))
        clock[0] += 10
        return 0

    monkeypatch.setattr(run, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(run, "installed", installed)
    monkeypatch.setattr(run, "card", lambda python: "card")
    monkeypatch.setattr(run, "run", step)
    monkeypatch.setattr(sys, "argv", ["run.py", "--minutes", "10", "--out", str(tmp_path)])
    run.main()
    assert ends == [240, 590]
    assert kept == [1, 2], "each line is in the file at once"


_PYTHON = """#!{python}
import os, sys, time
folder, code = {folder!r}, {code!r}
if sys.argv[1] == "-c":
    print("NVIDIA H200")
elif sys.argv[2] == "pytest":
    options = sys.argv[1:-1]  # without the folder
    os.execv({python!r}, [{python!r}, *options, "-p", "no:cacheprovider", "--rootdir", folder, folder])
elif sys.argv[1].endswith("make_full_bundle.py"):
    sys.exit({made!r})
elif "--model" in sys.argv:
    print("answers of", *sys.argv[3:])
else:
    print("| a row |")
    parent = os.getppid()
    while code is None and os.getppid() == parent:
        time.sleep(0.1)
    sys.exit(code)
"""
_TESTS = """
import warnings
import pytest

@pytest.mark.gpu
def test_of_a_script():
    pass

@pytest.fixture(params=["onnx", "tensorrt"])
def placement(request):
    if request.param in {skipped!r}:
        pytest.skip("not for this card")
    return request.param

@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 8])
def test_answers(placement, count):
    warnings.warn("of a newer library", DeprecationWarning)
    print(f"{{placement}}: 60 of 60 right")
"""


def machine(folder: Path, skipped: list[str], *, code: int | None, made: int = 0) -> list[str]:
    """The command on one whose tests are others, and whose bench prints one row and ends with `code`; None: never.

    made: the exit code of what makes a bundle.
    """
    tests = folder / "tests"
    tests.mkdir()
    (tests / "test_made_up.py").write_text(_TESTS.format(skipped=skipped), "utf-8")
    (tests / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\nmarkers = gpu\n", "utf-8")
    python = folder / "python"
    python.write_text(_PYTHON.format(python=sys.executable, folder=str(tests), code=code, made=made), "utf-8")
    python.chmod(0o755)
    return [sys.executable, str(_RUN), "--python", str(python), "--out", str(folder / "out")]


@pytest.mark.skipif(os.name == "nt", reason="the Python is a script")
def test_results_are_there_when_everything_is_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(machine(tmp_path, ["tensorrt"], code=None), stdout=subprocess.DEVNULL)
    found = ""
    for _ in range(1800):
        time.sleep(0.1)
        found = "".join(path.read_text("utf-8") for path in (tmp_path / "out").glob("nvidia-h200-*.md"))
        if "a row" in found:
            break
    process.kill()
    process.wait()
    first, _, second, *rest = found.splitlines()
    assert first.endswith(": tests of vllama passed on the GPU through ONNX Runtime")
    assert second.startswith("answers of ")
    assert "| a row |" in rest
    assert "onnx: 60 of 60 right" in "\n".join(rest)
    assert "SKIPPED (not for this card)" in "\n".join(rest)
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.skipif(os.name == "nt", reason="the Python is a script")
@pytest.mark.parametrize(
    ("skipped", "bench", "code", "words"),
    [
        (["onnx", "tensorrt"], 1, 3, "NO TEST OF VLLAMA PASSED ON THE GPU"),
        ([], 0, 0, "tests of vllama passed on the GPU through ONNX Runtime and TensorRT"),
    ],
)
def test_results_say_what_ran_and_the_code_where_nothing_did(
    skipped: list[str], bench: int, code: int, words: str, tmp_path: Path
) -> None:
    done = subprocess.run(machine(tmp_path, skipped, code=bench), capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout.splitlines()[-1]
    (path,) = (tmp_path / "out").iterdir()
    assert words in path.read_text("utf-8").splitlines()[0]


@pytest.mark.skipif(os.name == "nt", reason="the Python is a script")
@pytest.mark.parametrize("made", [0, 1])
def test_answers_of_a_bundle_of_full_size_are_measured_where_it_could_be_made(made: int, tmp_path: Path) -> None:
    command = [*machine(tmp_path, ["tensorrt"], code=0, made=made), "--entry", "no-entry"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "out").iterdir()
    found = path.read_text("utf-8")
    answered = bool(re.search(r"^answers of \S+full-size.no-entry$", found, re.MULTILINE))
    assert (answered, "Answers at full size are left out" in found) == (not made, bool(made))


def made_up_ways(bench: ModuleType, heard: list[str], *ways: tuple[str, int, BaseException]) -> list[object]:
    """Each hands pictures on, as many as it takes, and fails with more; what happens to them is heard."""

    def way(name: str, most: int, error: BaseException) -> object:
        @contextmanager
        def opened() -> Iterator[Callable[[np.ndarray], np.ndarray]]:
            def run(pixels: np.ndarray) -> np.ndarray:
                if len(pixels) > most:
                    raise error
                heard.append(f"{name} {len(pixels)}")
                return pixels

            yield run

        @contextmanager
        def told() -> Iterator[Callable[[np.ndarray], np.ndarray]]:
            heard.append(f"{name} opened")
            try:
                with opened() as run:
                    yield run
            finally:
                heard.append(f"{name} closed")

        return bench.Way(name, told)

    return [way(*each) for each in ways]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 0))
    return script("bench_gpu", monkeypatch)


def test_way_that_cannot_run_is_left_out_and_the_others_are_measured(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[str] = []
    ways = made_up_ways(
        bench,
        heard,
        ("too large", 1, torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")),
        (bench.EAGER, 2, AssertionError()),
        ("refused", 0, BackendError("frames.engine: TensorRT cannot run it")),
        ("another", 2, AssertionError()),
    )
    bench.measure(ways, [1, 2], find_spec("miniature"), 1, 1e12)
    _, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[1]) for row in rows] == [
        ("too large", ""), (bench.EAGER, "1"), (bench.EAGER, "2"), ("refused", ""), ("another", "1"), ("another", "2"),
    ]  # fmt: skip
    assert {len(row) for row in rows} == {7}
    assert rows[0][2] == "left out: CUDA out of memory. Tried to allocate"
    assert rows[3][2] == "left out: frames.engine: TensorRT cannot run it"
    assert rows[1][5] == rows[2][5] == "1.00"
    assert float(rows[4][5]) > 0


def test_ways_take_turns_with_torch_eager_and_are_closed_before_the_next_is_made(bench: ModuleType) -> None:
    heard: list[str] = []
    names = (bench.EAGER, "one", "two")
    ways = made_up_ways(bench, heard, *((name, 8, AssertionError()) for name in names))
    bench.measure(ways, [1, 2], find_spec("miniature"), 2, 1e12)
    alone = [f"{bench.EAGER} {count}" for count in (1, 2)]
    wanted = [f"{bench.EAGER} opened", *alone, *[alone[0]] * 2, *[alone[1]] * 2]
    for name in ("one", "two"):
        turns = [f"{each} {count}" for count in (1, 2) for _ in range(2) for each in (name, bench.EAGER)]
        wanted += [f"{name} opened", f"{name} 1", f"{name} 2", *turns, f"{name} closed"]
    assert heard == [*wanted, f"{bench.EAGER} closed"]


def test_bench_that_is_stopped_has_printed_what_it_had_measured(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = made_up_ways(bench, [], (bench.EAGER, 1, AssertionError()), ("slow", 0, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        bench.measure(ways, [1], find_spec("miniature"), 1, 1e12)
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"| {bench.EAGER} | 1 |")


def test_without_torch_eager_there_is_nothing_to_compare_with(
    bench: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.measure(made_up_ways(bench, [], ("one", 1, AssertionError())), [1], find_spec("miniature"), 1, 1e12)
    assert capsys.readouterr().out.splitlines()[-1].endswith("| - | 0.00 |")


@pytest.mark.parametrize(
    ("names", "kept"),
    [("", ["torch.compile fp16", "TensorRT fp16"]), ("torch.compile,TensorRT w8a16", ["TensorRT fp16"]), ("T,t", [])],
)
def test_ways_are_left_out_by_how_they_begin(names: str, kept: list[str], bench: ModuleType) -> None:
    ways = made_up_ways(bench, [], *((name, 1, AssertionError()) for name in ("torch.compile fp16", "TensorRT fp16")))
    assert [way.name for way in bench.without(names, ways)] == kept


def test_nothing_is_made_for_a_way_that_is_not_opened_or_cannot_run(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An export of full size takes minutes. TensorRT for RTX is for no H200."""

    def one_graph(*_: object) -> None:
        raise AssertionError("exported")

    def check_cuda() -> None:
        raise BackendUnavailableError("it has no CUDAExecutionProvider")

    monkeypatch.setattr(bench, "one_graph", one_graph)
    monkeypatch.setattr(bench, "check_cuda", check_cuda)
    monkeypatch.setattr(bench, "random_weights", lambda spec: {})
    eager, onnx, *engines, compiled = bench.all_ways(find_spec("miniature"), H200, tmp_path)
    assert (eager.name, compiled.name) == (bench.EAGER, "torch.compile fp16")
    with pytest.raises(BackendUnavailableError, match="CUDAExecutionProvider"), onnx.open():
        pass
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not made for this system")
    assert len(engines) == 2
    for each in engines:
        with pytest.raises(SpecError, match=r"not for 9\.0"), each.open():
            pass


def test_torch_gets_the_weights_in_fp16_and_no_others(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("miniature")
    state = bench.random_weights(spec)
    placed: list[set[torch.dtype]] = []
    to_empty = torch.nn.Module.to_empty

    def seen(graph: torch.nn.Module, device: str) -> torch.nn.Module:
        placed.append({weight.dtype for weight in graph.parameters()})
        return to_empty(graph, device=device)

    monkeypatch.setattr(torch.nn.Module, "to_empty", seen)
    made = bench.halves(spec, state, "cpu").state_dict()
    assert placed == [{torch.float16}]
    assert set(made) == set(state) == set(empty_graph("frames", spec).state_dict())
    for name, weight in made.items():
        torch.testing.assert_close(weight, state[name].half(), rtol=0, atol=0)


def test_bench_tells_the_speed_and_the_most_memory_of_answers(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path))  # the bench sets another
    free = chain([9_000_000_000, 4_000_000_000, 2_000_000_000], repeat(4_000_000_000))
    monkeypatch.setattr(bench, "free_bytes", lambda: next(free))
    speed = r"miniature Q8_0: first token \d+\.\d ms, \d+\.\d tokens/s, {} of device memory at the most"
    for gpus, most in (((SimpleNamespace(),), r"7\.00 GB"), ((), "an unknown amount")):
        monkeypatch.setattr(bench, "nvidia_memory", lambda gpus=gpus: gpus)
        bench.answers(str(shipped_bundle()), device="cpu")
        found = capsys.readouterr().out
        assert re.search(speed.format(most), found), found


def test_bench_says_whether_llama_cpp_has_the_gpu(bench: ModuleType) -> None:
    layers, said = bench.llm_layers(open_bundle(shipped_bundle()))
    can = bool(gpu_memory())
    assert said.startswith(f"llama.cpp {'has a GPU' if can else 'finds no GPU, or'}")
    assert f": {layers} of " in said
    assert can or layers == 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (BackendError("frames.onnx: tensorrt_rtx cannot build it"), pytest.fail.Exception),
        (FileError("frames.onnx: tensorrt_rtx does not take it"), pytest.fail.Exception),
        (SpecError("tensorrt_rtx builds for 8.9, not for 9.0"), pytest.skip.Exception),
        (BackendUnavailableError("tensorrt_rtx is not installed"), pytest.skip.Exception),
    ],
)
def test_engine_that_cannot_be_built_costs_the_tests_of_tensorrt_alone(
    error: VllamaError, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    conftest = script("conftest", monkeypatch)

    def add_engines(*_: object) -> None:
        raise error

    monkeypatch.setattr(conftest, "open_builder", lambda options: None)
    monkeypatch.setattr(conftest, "add_engines", add_engines)
    bundle = open_bundle(shipped_bundle())
    assert conftest.with_engines(bundle, H200) == (bundle, error)
    conftest.check_built(bundle, {})
    conftest.check_built(replace(bundle, folder=Path("another")), {bundle.folder: error})
    with pytest.raises(outcome, match=str(error)):
        conftest.check_built(bundle, {bundle.folder: error})
