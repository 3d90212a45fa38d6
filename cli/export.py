"""`vllama export`: published checkpoints -> a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vllama.runtime.bundle import models_dir
from vllama.runtime.errors import SpecError
from vllama.runtime.registry import find_spec

from . import options
from .render import fidelity_table, part_bars


def export(
    model: Annotated[str, typer.Argument(help="An entry of models.toml.")],
    weights: Annotated[Path, typer.Option(help="The folder with the published files, at most three folders deep.")],
    out: Annotated[
        Path | None, typer.Option(help="The bundle's folder; default: MODEL where bundles are kept.")
    ] = None,
    quant: Annotated[
        str | None, typer.Option(help="The LLM's GGUF type: F32 F16 Q8_0 Q6_K Q5_K_M Q4_K_M Q4_0 ...")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="The encoders' precision: int8 for CPUs; fp16 or w8a16 for GPUs; fp32. "
            "Default: int8, with --engine tensorrt fp16."
        ),
    ] = None,
    engine: Annotated[
        Literal["onnx", "tensorrt"],
        typer.Option(help="tensorrt also builds engines, in a bundle that is there already, too."),
    ] = "onnx",
    library: Annotated[
        str | None, typer.Option(help="Of --engine tensorrt: tensorrt_rtx or tensorrt; default: what is installed.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Of --engine tensorrt: a compute capability, 8.9; again for more; default: all from 8.0 on."),
    ] = None,
    models: Annotated[Path | None, typer.Option(help="More entries, in the form of models.toml.")] = None,
    threads: options.Threads = None,
) -> None:
    """Turn the published checkpoints of a model into a bundle that `vllama ask` opens."""
    spec = find_spec(model, models)
    if engine == "onnx" and (library or target):
        raise SpecError(f"{'--library' if library else '--target'} is for --engine tensorrt; add it, or leave this out")
    from vllama.export import export_model  # which this command alone needs
    from vllama.export.to_tensorrt import EngineOptions

    out = out or models_dir() / model
    with part_bars() as (progress, report):
        bundle = export_model(
            spec,
            weights,
            out,
            quant=quant,
            precision=precision,
            engines=EngineOptions(library, tuple(target or ())) if engine == "tensorrt" else None,
            threads=threads,
            progress=progress,
            report=report,
        )
    fidelity_table(bundle.manifest)
    print(bundle.folder)
