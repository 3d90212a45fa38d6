"""`vllama plan`: what a model needs, where it goes, and whether it fits this machine."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllama.runtime.llm.devices import gpu_memory
from vllama.runtime.machine import GpuMemory, Memory, nvidia_memory, physical_cores, read_memory
from vllama.runtime.plan import (
    Plan,
    features_per_hour,
    kv_bytes,
    make_plan,
    usable_bytes,
    what_fits,
)
from vllama.runtime.precision import feature_dtype, suits_gpus

from . import options
from .planned import Planned, Wanted, find_planned

_ABOUT = {
    "frames": "frames: pictures -> features",
    "clips": "clips: sound -> features",
    "video": "video: features -> tokens",
    "audio": "audio: features -> tokens",
}


@dataclass(frozen=True)
class _Gpus:
    """The GPUs to plan for.

    usable: bytes of them that may be planned. llm: whether this llama.cpp can use them. encoders: whether they are
    NVIDIA's, for the encoders run on no others. in_ram: their memory is the machine's.
    """

    found: tuple[GpuMemory, ...]
    usable: int
    llm: bool
    encoders: bool = True
    in_ram: bool = False


def plan(
    model: options.Model = None,
    ctx_size: options.CtxSize = None,
    kv: options.KvCache = None,
    gpu_memory_size: Annotated[
        str | None, typer.Option("--gpu-memory", metavar="SIZE", help="Plan for a GPU with so much: 8GB; 0: for none.")
    ] = None,
    quant: Annotated[
        str | None, typer.Option(help="As if exported with this GGUF type of the LLM; by default as models.toml says.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="As if exported with this precision of the encoders: int8 fp16 w8a16 fp32.")
    ] = None,
    models: Annotated[Path | None, typer.Option(help="More entries, in the form of models.toml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a model needs in RAM, on a GPU and on disk, where each part goes, and whether it fits this machine.

    Nothing is loaded; a model that is not exported yet is reckoned from its entry in models.toml. The encoders go on an
    NVIDIA GPU unless they are int8; any GPU takes as many layers of the language model as fit.
    """
    planned = find_planned(Wanted(model, quant, precision, models, ctx_size, kv))
    gpus = _gpus(gpu_memory_size)
    plans = {"CPU": make_plan(planned.facts, planned.graphs, planned.n_ctx, planned.kv)}
    if gpus.found:
        plans["GPU"] = _on_gpu(planned, gpus, gpus.llm)
    memory = read_memory()
    if as_json:
        print(json.dumps(_row(planned, plans, memory, gpus)))
    else:
        _print(planned, plans, memory, gpus)


def _gpus(named: str | None) -> _Gpus:
    if named is not None:
        size = options.file_size(named)
        wanted = (GpuMemory("--gpu-memory", size, size),) if size > 0 else ()
        return _Gpus(wanted, usable_bytes(wanted, started=False), llm=True)
    listed = nvidia_memory()
    if found := gpu_memory():
        usable = usable_bytes(found, started=True)
        return _Gpus(found, usable, llm=True, encoders=bool(listed), in_ram=any(gpu.in_ram for gpu in found))
    return _Gpus(listed, usable_bytes(listed, started=False), llm=False)


def _on_gpu(planned: Planned, gpus: _Gpus, llm: bool) -> Plan:
    return make_plan(
        planned.facts, planned.graphs, planned.n_ctx, planned.kv,
        gpu_budget=gpus.usable, gpu_llm=llm,
        gpu_encoders=gpus.encoders and suits_gpus(planned.precision),
    )  # fmt: skip


def _in_ram(found: Plan, gpus: _Gpus) -> Plan:
    return found.in_one_memory() if gpus.in_ram else found


def _row(planned: Planned, plans: dict[str, Plan], memory: Memory, gpus: _Gpus) -> dict[str, object]:
    return {
        "model": planned.model,
        "exported": planned.made,
        "quant": planned.quant,
        "precision": planned.precision,
        "n_ctx": planned.n_ctx,
        "kv": planned.kv,
        "layer_bytes": [*planned.facts.blocks, planned.facts.output],
        "plans": {
            name: {
                "parts": [asdict(part) for part in each.parts],
                "gpu_layers": each.gpu_layers,
                "ram_indexing": each.ram_indexing,
                "ram_encoding": each.ram_encoding,
                "ram_answering": each.ram_answering,
                "gpu": each.gpu,
                "fits": _in_ram(each, gpus).ram_encoding <= memory.free and each.gpu <= gpus.usable,
            }
            for name, each in plans.items()
        },
        "disk": planned.disk,
        "features_per_hour": _features(planned),
        "machine": {
            "cores": physical_cores(),
            "ram": asdict(memory),
            "gpus": [asdict(gpu) for gpu in gpus.found],
            "gpu_usable": gpus.usable,
            "gpu_in_ram": gpus.in_ram,
        },
    }


def _print(planned: Planned, plans: dict[str, Plan], memory: Memory, gpus: _Gpus) -> None:
    name = planned.model if planned.made else f"{planned.model}, not exported yet"
    title = (
        f"{name}: {planned.quant}, encoders {planned.precision}, {planned.n_ctx} positions, {planned.kv} KV cache; MB"
    )
    table = Table(title=Text(title, "table.title"))
    table.add_column("part")
    table.add_column("RAM, CPU alone", justify="right")
    if gpus.found:
        table.add_column("RAM, with the GPU", justify="right")
        table.add_column("on the GPU", justify="right")
    names = dict.fromkeys(part.name for each in plans.values() for part in each.parts)
    for name in names:
        table.add_row(_ABOUT.get(name, name), *_cells(plans, name))
    table.add_section()
    for title, kind in (
        ("while indexing", "ram_indexing"),
        ("asking about a new clip", "ram_encoding"),
        ("asking about an indexed one", "ram_answering"),
    ):
        cells = [_mb(getattr(plans["CPU"], kind))]
        if gpus.found:
            cells += [_mb(getattr(plans["GPU"], kind)), _mb(plans["GPU"].gpu) if kind == "ram_encoding" else ""]
        table.add_row(title, *cells)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    for line in _lines(planned, plans, memory, gpus):
        print(line)


def _cells(plans: dict[str, Plan], name: str) -> list[str]:
    cells: list[str] = []
    for kind, each in plans.items():
        part = next((part for part in each.parts if part.name == name), None)
        cells.append(_mb(part.ram if part else 0))
        if kind == "GPU":
            cells.append(_mb(part.gpu if part else 0))
    return cells


def _lines(planned: Planned, plans: dict[str, Plan], memory: Memory, gpus: _Gpus) -> list[str]:
    facts = planned.facts
    low, high = (_mb(size) for size in (min(facts.blocks), max(facts.blocks)))
    each = low if low == high else f"{low} to {high}"
    lines = [
        f"LLM: {len(facts.blocks)} layers of {each} MB, output {_mb(facts.output)} MB, "
        f"tokens {_mb(facts.embedding)} MB; KV cache {kv_bytes(facts, 256, planned.kv) / 256e3:.0f} kB a position",
        f"disk: {_mb(planned.disk)} MB; an indexed hour, one frame a second: {_mb(_features(planned))} MB",
    ]
    for gpu in gpus.found:
        lines.append(f"GPU: {gpu.name}, {_mb(gpu.free)} of {_mb(gpu.total)} MB free" + ", in RAM" * gpus.in_ram)
    if gpus.found:
        lines += _gpu_lines(planned, plans["GPU"], gpus)
    else:
        lines.append("GPU: none that can be used; --gpu-memory 8GB plans for one")
    return [*lines, _verdict(planned, _in_ram(plans.get("GPU", plans["CPU"]), gpus), memory)]


def _gpu_lines(planned: Planned, found: Plan, gpus: _Gpus) -> list[str]:
    layers = f"of {len(planned.facts.blocks) + 1} layers, output included"
    if gpus.llm:
        lines = [f"--gpu-layers auto: {found.gpu_layers} {layers}"]
    else:
        more = _on_gpu(planned, gpus, True).gpu_layers
        lines = [f"--gpu-layers auto: 0, for this llama-cpp-python is built for the CPU; with a build for the GPU "
                 f"(docs/llm.md) {more} {layers}"]  # fmt: skip
    if not gpus.encoders:
        lines.append("the encoders stay on the CPU: of GPUs they run on NVIDIA's alone")
    elif not suits_gpus(planned.precision):
        lines.append("the encoders are int8 and stay on the CPU; `vllama export --precision fp16` makes some for GPUs")
    if found.gpu > gpus.usable:
        lines.append(f"GPU: {_mb(found.gpu)} MB needed of {_mb(gpus.usable)} MB usable: does not fit; use --device cpu")
    return lines


def _verdict(planned: Planned, found: Plan, memory: Memory) -> str:
    """Whether it fits the RAM, and what to change where it does not."""
    have = f"RAM: {_mb(memory.free)} of {_mb(memory.total)} MB free, {_mb(found.ram_encoding)} MB needed"
    if found.ram_encoding <= memory.free:
        return f"{have}: fits"
    if max(found.ram_indexing, found.ram_answering) <= memory.free:
        return f"{have}: does not fit at once; index clips first: `vllama index`"
    fits = what_fits(planned.facts, planned.graphs, planned.n_ctx, planned.kv, memory.free)
    if fits is None and (smaller := planned.quant_that_fits(memory.free)):
        return f"{have}: does not fit; export it with --quant {smaller}, and index clips first: `vllama index`"
    if fits is None:
        return f"{have}: does not fit; end other programs, or export it with a smaller --quant"
    changes = [f"--kv {fits[0]}"] * (fits[0] != planned.kv) + [f"--ctx-size {fits[1]}"] * (fits[1] != planned.n_ctx)
    return f"{have}: does not fit; use {' '.join(changes)}"


def _features(planned: Planned) -> int:
    return features_per_hour(planned.spec, np.dtype(feature_dtype(planned.precision)).itemsize)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f}"
