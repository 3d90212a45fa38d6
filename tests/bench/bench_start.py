"""From the start of `vllama ask` to its first token, about a clip whose timeline is saved: where the time goes.

    python tests/bench/bench_start.py --model BUNDLE --clip CLIP [--rounds 5] [--cold] [--imports]

The command runs whole, in a fresh process each time, with clocks around its own calls; in turns, A B A B, with nothing
but the timeline saved and with what the model read of it kept, too (`--keep-prefix`). A moment counts for the call that
began last. --cold drops the files of the bundle, of the cache and of the libraries from the page cache before each
round, as far as no other process has them mapped (Linux). --imports adds what each package costs to import.
"""

from __future__ import annotations

import sys
import time

_ENTERED = time.monotonic()

import argparse  # noqa: E402
import functools  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Callable  # noqa: E402
from itertools import pairwise  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

QUESTION = "What does the person in this video do right now?"
Span = tuple[str, float, float]  # what, from, to: seconds since the process was asked for
Label = str | Callable[..., str]
_IMPORTS, _REST = "imports", "everything else"
_LIBRARIES = ("av", "llama_cpp", "numpy", "numpy.libs", "onnxruntime", "pydantic_core", "rich", "typer")


def _file(self: object, path: Path, *rest: object, **more: object) -> str:
    return f"graph {Path(path).stem}: open"


def _graph(self: Any, inputs: object) -> str:
    return f"graph {self._path.stem}: run"


def _rows(self: object, rows: Any, wanted: bool) -> str:
    return f"LLM: read {'words' if rows.ndim == 1 else 'media'}"


# What is timed: module, attribute, and what it is called.
_CALLS: tuple[tuple[str, str, Label], ...] = (
    ("vllama.cli.app", "_load", _IMPORTS),
    ("vllama.runtime.engine", "open_bundle", "bundle: manifest, sizes and stamps"),
    ("vllama.runtime.cache.library", "Library.index", "timeline: find and check"),
    ("vllama.runtime.cache.library", "identify", "timeline: which clip it is"),
    ("vllama.runtime.cache.store", "Store.read", "timeline: read"),
    ("vllama.runtime.cache.saved", "Saved.fill", "timeline: map features"),
    ("vllama.runtime.encoders", "Encoders.__init__", "encoders: position tables"),
    ("vllama.runtime.llm.devices", "load_library", "LLM: load llama.cpp"),
    ("vllama.runtime.llm.llama_context", "LlamaContext._load_model", "LLM: map weights"),
    ("vllama.runtime.llm.llama_context", "LlamaContext._make_context", "LLM: context and KV cache"),
    ("vllama.runtime.backend_onnx", "_import_onnxruntime", "graphs: load ONNX Runtime"),
    ("vllama.runtime.backend_onnx", "OnnxBackend.__init__", _file),
    ("vllama.runtime.backend_onnx", "OnnxBackend.run", _graph),
    ("vllama.runtime.cache.prefixes", "PrefixStore.find", "kept prefix: look and read"),
    ("vllama.runtime.llm.llama_context", "LlamaContext.set_state", "kept prefix: restore"),
    ("vllama.runtime.llm.llama_context", "LlamaContext.decode", _rows),
    ("vllama.runtime.llm.sampler", "Sampler.draw", "draw the first token"),
)


def main() -> None:
    """Save a timeline, ask about it in turns, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="a bundle: its folder or its name")
    parser.add_argument("--clip", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--imports", action="store_true")
    given = parser.parse_args()
    from vllama.runtime.bundle import find_bundle  # not above: `inside` would have imported it before its clock runs

    bundle = find_bundle(given.model)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(base / "code")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed vllama is compiled
        ask = ["ask", given.clip, QUESTION, "--model", given.model, "-n", "1", "--temperature", "0"]
        ask += ["--threads", str(given.threads)] if given.threads else []
        caches = {"timeline saved": base / "timeline", "prefix kept": base / "prefix"}
        first, second = caches.values()
        _command(ask, {**environment, "VLLAMA_CACHE": str(first)})
        shutil.copytree(first, second)
        _command([*ask, "--keep-prefix"], {**environment, "VLLAMA_CACHE": str(second)})
        found: dict[str, list[tuple[float, list[Span]]]] = {name: [] for name in caches}
        for _ in range(given.rounds):
            for name, cache in caches.items():
                if given.cold:
                    _drop([bundle, cache, *_libraries()])
                found[name].append(_traced(ask, {**environment, "VLLAMA_CACHE": str(cache)}, base / "spans.json"))
        print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, {'cold' if given.cold else 'warm'} page cache")
        for name, rounds in found.items():
            _print(name, rounds)
        if given.imports:
            _print_imports(environment)


def _command(arguments: list[str], environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-m", "vllama.cli", *arguments], env=environment, stdout=sys.stderr, check=True)


def _traced(arguments: list[str], environment: dict[str, str], spans: Path) -> tuple[float, list[Span]]:
    """Seconds until the first letter of the answer, and what was done in them."""
    started = time.monotonic()
    inside = [sys.executable, __file__, "--inside", str(spans), str(started), *arguments]
    process = subprocess.Popen(inside, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.read(1)
    took = time.monotonic() - started
    process.stdout.read()
    assert process.wait() == 0, "the question was not answered"
    return took, [(name, begin, end) for name, begin, end in json.loads(spans.read_text("utf-8"))]


def inside(spans_file: str, started: str, *arguments: str) -> None:
    """The command in this process, with a clock around each of `_CALLS`."""
    zero, spans = float(started), list[Span]()
    importing = time.monotonic()
    app = importlib.import_module("vllama.cli.app")
    spans.append(("start of Python", 0.0, _ENTERED - zero))
    spans.append((_IMPORTS, importing - zero, time.monotonic() - zero))
    for module, path, label in _CALLS:
        owner: Any = importlib.import_module(module)
        *outer, name = path.split(".")
        for each in outer:
            owner = getattr(owner, each)
        setattr(owner, name, _clocked(getattr(owner, name), label, spans, zero))
    sys.argv = ["vllama", *arguments]
    try:
        app.main()
    finally:
        sys.stdout.flush()
        Path(spans_file).write_text(json.dumps(spans), "utf-8")


def _clocked(call: Callable[..., Any], label: Label, spans: list[Span], zero: float) -> Callable[..., Any]:
    @functools.wraps(call)
    def clocked(*arguments: Any, **named: Any) -> Any:
        begin = time.monotonic() - zero
        try:
            return call(*arguments, **named)
        finally:
            spans.append((label(*arguments, **named) if callable(label) else label, begin, time.monotonic() - zero))

    return clocked


def pieces(spans: list[Span], end: float) -> list[Span]:
    """The time from 0 to end in a row: each moment is that of the call that began last and still runs."""
    edges = sorted({0.0, end, *(edge for _, *both in spans for edge in both if 0.0 < edge < end)})
    row: list[Span] = []
    for begin, until in pairwise(edges):
        running = [span for span in spans if span[1] <= begin and span[2] >= until]
        name = max(running, key=lambda span: span[1])[0] if running else _REST
        if row and row[-1][0] == name:
            row[-1] = (name, row[-1][1], until)
        else:
            row.append((name, begin, until))
    return row


def _print(name: str, rounds: list[tuple[float, list[Span]]]) -> None:
    totals = [took for took, _ in rounds]
    middle = statistics.median(totals)
    print(f"\n{name}: first token after {1000 * middle:.0f} ms ({1000 * min(totals):.0f}-{1000 * max(totals):.0f})")
    sums = [defaultdict[str, float](float) for _ in rounds]
    for (took, spans), total in zip(rounds, sums, strict=True):
        for label, begin, end in pieces(spans, took):
            total[label] += 1000 * (end - begin)
    took, spans = min(rounds, key=lambda each: abs(each[0] - middle))
    order = list(dict.fromkeys(label for label, _, _ in pieces(spans, took)))
    print(f"{'begins, ms':>10} {'median ms':>10} {'least':>8} {'most':>8}")
    for label in order:
        begins = 1000 * next(begin for found, begin, _ in pieces(spans, took) if found == label)
        times = [total[label] for total in sums]
        print(f"{begins:>10.0f} {statistics.median(times):>10.0f} {min(times):>8.0f} {max(times):>8.0f}  {label}")
    opened = [label.split()[1].rstrip(":") for label in order if label.startswith("graph ") and label.endswith("open")]
    print(f"graphs opened: {', '.join(opened) or 'none'}")


def _print_imports(environment: dict[str, str]) -> None:
    """Milliseconds by package, those of vllama by module; the least of three runs."""
    least: dict[str, float] = {}
    for _ in range(3):
        timed = [sys.executable, "-X", "importtime", "-c", "import vllama.cli.app, vllama.cli.ask"]
        lines = subprocess.run(timed, env=environment, capture_output=True, text=True, check=True).stderr.splitlines()
        for line in lines[1:]:
            own, _, module = line.removeprefix("import time:").split("|")
            least[module.strip()] = min(least.get(module.strip(), float("inf")), int(own) / 1000)
    packages = defaultdict[str, float](float)
    for module, milliseconds in least.items():
        packages[module if module.startswith("vllama") else module.split(".")[0]] += milliseconds
    print(f"\nimports: {sum(packages.values()):.0f} ms")
    for package, milliseconds in sorted(packages.items(), key=lambda each: -each[1])[:20]:
        print(f"{milliseconds:>10.1f}  {package}")


def _libraries() -> list[Path]:
    folders = [Path(folder) / name for folder in sys.path for name in _LIBRARIES if folder.endswith("site-packages")]
    return [folder for folder in folders if folder.is_dir()]


def _drop(folders: list[Path]) -> None:
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    inside(*sys.argv[2:]) if sys.argv[1:2] == ["--inside"] else main()
