"""Everything that needs an NVIDIA GPU, on a fresh machine: install, test, measure, write down. Not yet seen on a GPU.

    python3.11 tests/gpu/run.py [--python PYTHON] [--entry video-llama-2-7b-chat] [--model BUNDLE] [--minutes 10]

Makes `.venv-gpu` and installs there the extra `cuda`, the TensorRT for RTX of the extra `rtx`, torch with CUDA and what
the tests need, at the versions of constraints.txt; --python takes an environment that has all that. The tests of this
folder run first, then bench_gpu.py; what they print becomes tests/bench/results/CARD-DATE.md.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-gpu"
CONSTRAINTS = ROOT / ".dev" / "constraints.txt"
RESULTS = ROOT / "tests" / "bench" / "results"
RTX = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs", "cuda-bindings")  # without the onnxruntime of the extra
_LEAST_SECONDS = 60
_LATE = 124  # as the exit code of `timeout`


def main() -> int:
    """Run the steps, each with what is left of the time; the exit code is that of the tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", type=Path, help="of an environment that has everything")
    parser.add_argument("--entry", default="video-llama-2-7b-chat", help="whose dimensions are measured")
    parser.add_argument("--model", help="a bundle for GPUs, whose answers are timed, too")
    parser.add_argument("--minutes", type=float, default=10.0)
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    python = given.python or installed()
    tests = run(end, python, "-m", "pytest", "-m", "gpu", "-q", "-rs", "-s", "tests/gpu")
    more = ["--model", given.model] if given.model else []
    bench = run(end, python, "tests/gpu/bench_gpu.py", "--entry", given.entry, *more)
    path = written(card(python), tests, bench)
    print(f"\n{path}")
    return tests.returncode or bench.returncode


def installed() -> Path:
    """The Python of `.venv-gpu`, made and filled."""
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
    subprocess.run([*pip, f"{ROOT}[cuda,export,dev]", *RTX], check=True)
    return python


def run(end: float, python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A step, printed as it goes and kept; it is stopped when the time is over."""
    print(f"$ python {' '.join(arguments)}", flush=True)
    left = max(_LEAST_SECONDS, end - time.monotonic())
    command = [str(python), *arguments]
    # Unbuffered: what a step had printed when it is stopped is all that is left of it.
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".dev"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,
    )  # fmt: skip
    late, shown = threading.Event(), list[str]()

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
                shown.append(line)
    finally:
        timer.cancel()
        stop(process)
    code = process.returncode
    if late.is_set():
        code = _LATE
        shown.append(f"\nstopped after {left:.0f} s\n")
        print(shown[-1], flush=True)
    return subprocess.CompletedProcess(command, code, "".join(shown))


def stop(process: subprocess.Popen[str]) -> None:
    """End a step and what it started, which holds its output open."""
    if os.name == "nt":
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, signal.SIGKILL)


def card(python: Path) -> str:
    """The name of the GPU, for a file's name."""
    code = "from vllama.runtime.gpus import find_gpus; print(find_gpus()[0].name)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / ".dev")}
    done = subprocess.run([str(python), "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    return re.sub(r"\W+", "-", done.stdout.strip()).lower() or "no-gpu"


def written(name: str, tests: subprocess.CompletedProcess[str], bench: subprocess.CompletedProcess[str]) -> Path:
    """The file of results."""
    today = datetime.date.today().isoformat()
    path = RESULTS / f"{name}-{today}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"# {name}, {today}", "", bench.stdout.strip(), "", "## Tests", "", "```", tests.stdout.strip(), "```", ""]
    path.write_text("\n".join(parts), "utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
