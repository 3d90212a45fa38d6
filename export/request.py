"""What an export is asked for; what is wrong with it is found before torch is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vllama.runtime.bundle import Bundle
from vllama.runtime.errors import BackendUnavailableError, MissingFileError, SpecError, extra
from vllama.runtime.files import check_permission
from vllama.runtime.manifest import MANIFEST
from vllama.runtime.spec import ModelSpec

from .meter import Report
from .staging import alone, check_free
from .to_tensorrt import EngineOptions, Progress

Precision = Literal["fp32", "fp16", "int8", "w8a16"]


@dataclass(frozen=True)
class Request:
    """One export; None stands for what was not asked for. The arguments of `export_model`."""

    spec: ModelSpec
    weights: Path
    out: Path
    quant: str | None
    precision: str | None
    engines: EngineOptions | None
    threads: int | None

    @property
    def llm_type(self) -> str:
        """A name of `quants.QUANTS`."""
        return self.quant or self.spec.llm.quantization

    @property
    def encoder_type(self) -> Precision:
        """The precision of the encoders.

        Raises:
            SpecError: there is none of that name.
        """
        asked = self.precision or ("fp16" if self.engines else "int8")
        known: tuple[Precision, ...] = get_args(Precision)
        for each in known:
            if asked == each:
                return each
        raise SpecError(f"precision {asked!r} is not known; use one of {', '.join(known)}")

    @property
    def adds_engines(self) -> bool:
        """Whether the bundle is there already and is only given engines."""
        return self.engines is not None and os.path.isfile(self.out / MANIFEST)

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises: as `export_model` does before anything is written.
        """
        from .quants import QUANTS  # gguf

        if self.encoder_type == "int8" and self.engines:
            raise SpecError("--precision int8 is for CPUs, and TensorRT takes none of it; use fp16 or w8a16")
        if self.llm_type not in QUANTS:
            raise SpecError(f"quantization {self.llm_type!r} is not known; use one of {', '.join(QUANTS)}")
        if not self.adds_engines:
            check_folder(self.weights)


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
        quant: a name of `quants.QUANTS`; None: the model's.
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
    with _installed():
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


def check_folder(weights: Path) -> None:
    """Whether published files can be looked for there.

    Raises:
        MissingFileError: it is no folder.
        FileError: the system does not let it be looked into.
    """
    if not os.path.isdir(weights):
        raise MissingFileError(f"{weights}: not a folder; give the one with the published files as --weights")
    check_permission(weights)
