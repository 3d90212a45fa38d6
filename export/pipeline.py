"""The order of an export: check everything, make each part, judge it, become a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from safetensors.numpy import save_file

from vllama.runtime.bundle import POSITIONS, SCHEMA, Bundle, FidelityRow, FileRecord, Manifest, hash_file, open_bundle
from vllama.runtime.errors import SpecError
from vllama.runtime.spec import ModelSpec, spec_to_dict

from .checkpoint import Part, build_graph, position_tables, read_parts
from .fidelity import fixed_prompts, llm_fidelity
from .llama import LlamaFolder, open_llama
from .precision import Precision
from .staging import StagedPart, Staging, part_key, record_files
from .to_gguf import QUANTS, gguf_bytes, to_gguf
from .to_onnx import compare, to_onnx

Progress = Callable[[str, int, int], None]
_TOOLS = ("vllama", "torch", "onnx", "onnxscript", "onnxruntime", "gguf", "llama-cpp-python")
_WEIGHT_BYTES: dict[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
_SPARE_BYTES = 1 << 20  # graphs, tables and the manifest


def export_model(
    spec: ModelSpec,
    weights: Path,
    out: Path,
    *,
    quant: str,
    precision: str,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Export one model; when it was interrupted, the same call goes on with the parts that are not finished.

    Args:
        weights: the folder with the published files.
        out: the bundle's folder; it must not exist.
        quant: a name of `to_gguf.QUANTS`. precision: of the encoders, "fp32", "fp16" or "int8".
        progress: called with (part, bytes done, bytes in all); the fidelity of the LLM counts prompts.

    Raises:
        SpecError: there is no such quantisation or precision.
        FileError: a published file is not there or not what it should be; nothing was written.
        DiskFullError: it does not fit; finished parts are kept for the next call.
    """
    chosen = _precision(precision)
    if quant not in QUANTS:
        raise SpecError(f"quantization {quant!r} is not known; use one of {', '.join(QUANTS)}")
    step = progress or (lambda part, done, total: None)
    parts = read_parts(spec, weights)
    llama = open_llama(spec, weights)
    staging = Staging(out)
    try:
        staging.need(_size(parts, llama, chosen, quant))
        with staging.writing("the export"):
            return _exported(spec, weights, staging, parts, llama, chosen, quant, threads, step)
    finally:
        staging.discard_if_empty()


def _exported(
    spec: ModelSpec,
    weights: Path,
    staging: Staging,
    parts: list[Part],
    llama: LlamaFolder,
    precision: Precision,
    quant: str,
    threads: int | None,
    step: Progress,
) -> Bundle:
    sources = _hashed(weights, parts, llama, step)
    tools = {name: version(name) for name in _TOOLS}

    def key(paths: tuple[Path, ...], *facts: object) -> str:
        return part_key(spec_to_dict(spec), [sources[_relative(path, weights)].sha256 for path in paths], tools, *facts)

    made: dict[str, StagedPart] = {}
    for part in parts:
        make = partial(_graph, part, spec, staging.folder, precision, step)
        made[part.name] = staging.make(part.name, key(part.sources, precision), make)
    tables = tuple(path for part in parts for path in part.sources)
    made["positions"] = staging.make("positions", key(tables), partial(_positions, parts, staging.folder))
    llm = f"llm-{quant}.gguf"
    make_llm = partial(_llm, llama, spec, staging.folder, quant, partial(step, f"llm {quant}"))
    made[f"llm {quant}"] = staging.make(f"llm {quant}", key(llama.sources, quant), make_llm)
    manifest = Manifest(
        schema_version=SCHEMA,
        model=spec.name,
        license=spec.license,
        spec=spec_to_dict(spec),
        llm=llm,
        sources=sources,
        files={name: record for part in made.values() for name, record in part.files.items()},
        precision={**{part.name: precision for part in parts}, "llm": quant},
        tools=tools,
        fidelity=tuple(row for part in made.values() for row in part.fidelity),
        widened=tuple(note for part in made.values() for note in part.widened),
        notes=_notes(llama),
    )
    if quant != llama.dtype:
        row = _judged(manifest, spec, staging, llama, key(llama.sources, llama.dtype), threads, step)
        manifest = replace(manifest, fidelity=(*manifest.fidelity, row))
    staging.commit(manifest)
    return open_bundle(staging.out)


def _graph(part: Part, spec: ModelSpec, folder: Path, precision: Precision, step: Progress) -> StagedPart:
    graph = build_graph(part, spec)
    path = folder / f"{part.name}.onnx"
    to_onnx(graph, path, precision, partial(step, part.name))
    cost = compare(graph, path)
    row = FidelityRow(part.name, precision, max_abs=cost.max_abs, cosine=cost.cosine)
    return StagedPart(record_files(folder, (path.name, f"{path.name}.data")), (row,))


def _positions(parts: list[Part], folder: Path) -> StagedPart:
    save_file(position_tables(parts), folder / POSITIONS)
    return StagedPart(record_files(folder, (POSITIONS,)))


def _llm(llama: LlamaFolder, spec: ModelSpec, folder: Path, quant: str, step: Callable[[int, int], None]) -> StagedPart:
    path = folder / f"llm-{quant}.gguf"
    report = to_gguf(llama, spec, path, quant, step)
    return StagedPart(record_files(folder, (path.name,)), widened=report.widened)


def _judged(
    manifest: Manifest,
    spec: ModelSpec,
    staging: Staging,
    llama: LlamaFolder,
    key: str,
    threads: int | None,
    step: Progress,
) -> FidelityRow:
    """The quantised LLM against the stored type, whose file `commit` removes again."""
    name = f"llm {llama.dtype}"
    make = partial(_llm, llama, spec, staging.folder, llama.dtype, partial(step, name))
    (reference,) = staging.make(name, key, make).files
    return llm_fidelity(
        staging.folder / reference,
        staging.folder / manifest.llm,
        fixed_prompts(Bundle(staging.folder, manifest, spec)),
        spec.llm.n_ctx,
        manifest.precision["llm"],
        threads,
        partial(step, "llm fidelity"),
    )


def _hashed(weights: Path, parts: list[Part], llama: LlamaFolder, step: Progress) -> dict[str, FileRecord]:
    paths = sorted({path for part in parts for path in part.sources} | set(llama.sources))
    total, done = sum(path.stat().st_size for path in paths), 0

    def read(size: int) -> None:
        nonlocal done
        done += size
        step("sources", done, total)

    return {_relative(path, weights): hash_file(path, read) for path in paths}


def _size(parts: list[Part], llama: LlamaFolder, precision: Precision, quant: str) -> int:
    """About what the export writes, with the reference that the LLM is judged by."""
    weights = sum(tensor.numel() for part in parts for tensor in part.state.values())
    types = {quant, llama.dtype}
    return weights * _WEIGHT_BYTES[precision] + sum(gguf_bytes(llama, each) for each in types) + _SPARE_BYTES


def _notes(llama: LlamaFolder) -> tuple[str, ...]:
    ignored = f"{len(llama.ignored)} keys of the LLM are not needed: {llama.ignored[0]} ..." if llama.ignored else ""
    return (*llama.notes, *([ignored] if ignored else []))


def _relative(path: Path, weights: Path) -> str:
    return path.relative_to(weights).as_posix()


def _precision(name: str) -> Precision:
    known: tuple[Precision, ...] = get_args(Precision)
    for each in known:
        if name == each:
            return each
    raise SpecError(f"precision {name!r} is not known; use one of {', '.join(known)}")
