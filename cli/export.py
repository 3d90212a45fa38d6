"""`vllama export`: published checkpoints -> a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vllama.runtime.bundle import models_dir
from vllama.runtime.spec import find_spec

from .render import fidelity_table, part_bars


def export(
    model: Annotated[str, typer.Argument(help="An entry of models.toml.")],
    weights: Annotated[Path, typer.Option(help="The folder with the published files, in any subfolders.")],
    out: Annotated[
        Path | None, typer.Option(help="The bundle's folder; default: MODEL where bundles are kept.")
    ] = None,
    quant: Annotated[
        str | None, typer.Option(help="The LLM's GGUF type: F32 F16 Q8_0 Q6_K Q5_K_M Q4_K_M Q4_0 ...")
    ] = None,
    precision: Annotated[str, typer.Option(help="The encoders' precision: fp32, fp16 or int8.")] = "int8",
    models: Annotated[Path | None, typer.Option(help="More entries, in the form of models.toml.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", "-t", min=1, help="CPU threads.")] = None,
) -> None:
    """Turn the published checkpoints of a model into a bundle that `vllama ask` opens."""
    spec = find_spec(model, models)
    from vllama.export import export_model  # torch is loaded for this command only

    out = out or models_dir() / model
    with part_bars() as (progress, report):
        bundle = export_model(
            spec,
            weights,
            out,
            quant=quant or spec.llm.quantization,
            precision=precision,
            threads=threads,
            progress=progress,
            report=report,
        )
    fidelity_table(bundle.manifest)
    print(bundle.folder)
