"""One model exported; what is wrong with what was asked for is found before torch is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllama.runtime.bundle import Bundle
from vllama.runtime.errors import BackendUnavailableError, extra
from vllama.runtime.spec import ModelSpec

from .meter import Report
from .request import Request
from .staging import alone, check_free
from .to_tensorrt import EngineOptions, Progress


def export_model(
    spec: ModelSpec,
    weights: Path,
    out: Path,
    *,
    quant: str | None = None,
    precision: str | None = None,
    engines: EngineOptions | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
) -> Bundle:
    """Export one model; when it was interrupted, the same call goes on with the parts that are not finished.

    Args:
        weights: the folder with the published files.
        out: the bundle's folder; it must not exist, unless it is to be given engines.
        quant: a name of `vllama.runtime.llm.quants.QUANTS`; None: the model's.
        precision: of the encoders, "int8" for CPUs, "fp16" or "w8a16" for GPUs, or "fp32"; None: "int8", with engines
            "fp16".
        engines: also build TensorRT engines. A bundle that is there already is given those that it lacks, and nothing
            else of it is made again.
        threads: CPU threads; None: one on each core.
        progress: called with (part, bytes done, bytes in all); a graph is first run "in float32", then written.
        report: told what each part took that was made now.

    Raises:
        SpecError: there is no such quantisation or precision, or there are no engines of that kind.
        FileError: a published file is not there or not what it should be, and nothing was written; or `out` is another
            bundle than is asked for.
        BackendError: torch or TensorRT is not installed, or an engine cannot be built; the bundle is whole without.
        DiskFullError: it does not fit; finished parts are kept for the next call.
    """
    request = Request(spec, weights, out, quant, precision, engines, threads)
    request.check()
    with alone(out):
        if not request.adds_engines:
            check_free(out)
        with _installed():
            from .pipeline import run_export  # torch
        return run_export(request, progress or (lambda part, done, total: None), report or (lambda cost: None))


@contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise BackendUnavailableError(
            f"an export needs torch and others ({error}); install {extra('export')}"
        ) from error
