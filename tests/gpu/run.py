"""Everything that needs an NVIDIA GPU, on a fresh machine: install, test, measure, write down. Not yet seen on a GPU.

    python3 tests/gpu/run.py [--python PYTHON] [--entry video-llama-2-7b-chat] [--model BUNDLE] [--minutes 10]
                                [--out FOLDER]

Makes `.venv-gpu` and installs there the extra `cuda`, the TensorRT for RTX of the extra `rtx`, torch with CUDA and what
the tests need, at the versions of constraints.txt; --python takes an environment that has all that. Then the clock
starts. The tests of this folder run first, since figures of a product whose answers are wrong are worth nothing, in at
most two fifths of the time. Where one passed on the GPU, a bundle of full size on random weights is made under build/,
where it stays (7 GB), unless --model names another, and answers; the vision graph gets the time that is left. What all
of them print becomes FOLDER/CARD-DATE.md, which is written again with every line, so that a kill loses nothing. Its
first line says through what tests passed on the GPU; where all were skipped, the exit code is 3.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-gpu"
CONSTRAINTS = ROOT / ".dev" / "constraints.txt"
RESULTS = ROOT / "tests" / "bench" / "results"
RTX = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs", "cuda-bindings")  # without the onnxruntime of the extra
FULL_SIZE = ROOT / "build" / "full-size"
_MAKE, _BENCH = "tests/bench/make_full_bundle.py", "tests/gpu/bench_gpu.py"
_LEAST_SECONDS = 60
_TESTS, _MADE, _ANSWERED = 0.4, 0.6, 0.7  # of the time, by then at the latest
_LATE = 124  # as the exit code of `timeout`
_NOTHING = 3
# With -s and -vv: a test's name, what it prints, and its verdict. The first word of a parameter is the way it ran.
_PASSED = re.compile(r"::\w+\[(onnx|tensorrt|llama)\b[^\]\n]*\](?:(?!::).)*?\bPASSED\b", re.DOTALL)
_WAYS = {"llama": "llama.cpp", "onnx": "ONNX Runtime", "tensorrt": "TensorRT"}


@dataclass
class Results:
    """The file of results, as far as they go; path: where it is."""

    path: Path
    tests: str = ""
    bench: str = ""

    def ran(self) -> list[str]:
        """The ways in which a test of vllama passed on the GPU."""
        return [_WAYS[way] for way in sorted(set(_PASSED.findall(self.tests)))]

    def title(self) -> str:
        """Whose results these are, and of what."""
        passed = f"tests of vllama passed on the GPU through {' and '.join(self.ran())}"
        none = "NO TEST OF VLLAMA PASSED ON THE GPU; what they print, below, says why"
        return f"{self.path.stem}: {passed if self.ran() else none}"

    def write(self) -> None:
        """The whole file or, if this ends meanwhile, the one before."""
        text = f"# {self.title()}\n\n{self.bench.strip()}\n\n## Tests\n\n```\n{self.tests.strip()}\n```\n"
        part = self.path.with_name(f"{self.path.name}.part")
        try:
            part.write_text(text, "utf-8")
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)


def main() -> int:
    """Run the steps; the exit code is that of the tests, 3 where all were skipped, then that of the bench."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", type=Path, help="of an environment that has everything")
    parser.add_argument("--entry", default="video-llama-2-7b-chat", help="whose dimensions are measured")
    parser.add_argument("--model", help="a bundle for GPUs, whose answers are timed, in place of the random one")
    parser.add_argument("--minutes", type=float, default=10.0, help="for tests and measurements, after installing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args()
    python = given.python or installed()
    seconds, started = 60 * given.minutes, time.monotonic()
    given.out.mkdir(parents=True, exist_ok=True)
    results = Results(given.out / f"{card(python)}-{datetime.date.today().isoformat()}.md")

    def tested(line: str) -> None:
        results.tests += line
        results.write()

    def measured(line: str) -> None:
        results.bench += line
        results.write()

    # -vv: each verdict and the reason of each skip at once. -W: what a newer library warns of is no failure here.
    # A test that hangs in a library shows where, long before it is stopped.
    hangs = ("-o", "faulthandler_timeout=100")
    pytest = ("-m", "pytest", "-m", "gpu", "-vv", "-s", "-W", "default", *hangs, "tests/gpu")
    tests = run(started + _TESTS * seconds, tested, python, *pytest)
    if model := given.model or (full_size(given.entry, python, started + _MADE * seconds) if results.ran() else None):
        run(started + _ANSWERED * seconds, measured, python, _BENCH, "--model", model)
    elif results.ran():
        measured("Answers at full size are left out: no bundle could be made for them.\n\n")
    bench = run(started + seconds, measured, python, _BENCH, "--entry", given.entry)
    print(f"\n{results.path}\n{results.title()}")
    return tests or (bench if results.ran() else _NOTHING)


def full_size(entry: str, python: Path, end: float) -> str | None:
    """A bundle on random weights, made once; None where it could not be made, and what was printed says why."""
    folder = FULL_SIZE / entry
    if not folder.exists() and run(end, lambda line: None, python, _MAKE, "--model", entry, "--out", str(folder)):
        return None
    return str(folder)


def installed() -> Path:
    """The Python of `.venv-gpu`, made and filled."""
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
    subprocess.run([*pip, f"{ROOT}[cuda,export,dev]", *RTX], check=True)
    return python


def run(end: float, told: Callable[[str], None], python: Path, *arguments: str) -> int:
    """A step, whose lines are printed and told as they come; it is stopped when the time is over.

    Returns: its exit code.
    """
    print(f"$ python {' '.join(arguments)}", flush=True)
    left = max(_LEAST_SECONDS, end - time.monotonic())
    # Unbuffered: what a step had printed when it is stopped is all that is left of it. Wide: pytest breaks no reason.
    environment = {**surroundings(), "PYTHONUNBUFFERED": "1", "COLUMNS": "400"}
    process = subprocess.Popen(
        [str(python), *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    )  # fmt: skip
    late = threading.Event()

    def end_late() -> None:
        late.set()
        stop(process)

    timer = threading.Timer(left, end_late)
    timer.start()
    try:
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                told(line)
    finally:
        timer.cancel()
        stop(process)
    if not late.is_set():
        return process.returncode
    last = f"\nstopped after {left:.0f} s\n"
    print(last, flush=True)
    told(last)
    return _LATE


def stop(process: subprocess.Popen[str]) -> None:
    """End a step and what it started, which holds its output open."""
    if os.name == "nt":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, signal.SIGKILL)


def surroundings() -> dict[str, str]:
    """The environment of a step: the checkout's vllama in front of what the caller's own path has."""
    path = os.pathsep.join(filter(None, (str(ROOT / ".dev"), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def card(python: Path) -> str:
    """The name of the GPU, for a file's name."""
    code = "from vllama.runtime.gpus import find_gpus; print(find_gpus()[0].name)"
    done = subprocess.run([str(python), "-c", code], cwd=ROOT, env=surroundings(), capture_output=True, text=True)
    return re.sub(r"\W+", "-", done.stdout.strip()).lower() or "no-gpu"


if __name__ == "__main__":
    sys.exit(main())
