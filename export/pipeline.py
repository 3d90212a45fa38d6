"""The order of an export: check everything, make each part, judge it, become a bundle."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from safetensors.numpy import save

from vllama.runtime.bundle import (
    MANIFEST,
    POSITIONS,
    SCHEMA,
    Bundle,
    FidelityRow,
    FileRecord,
    Manifest,
    hash_file,
    open_bundle,
)
from vllama.runtime.errors import FileError, SpecError
from vllama.runtime.spec import ModelSpec, spec_to_dict

from .checkpoint import Part, Reader, position_tables, read_parts
from .fidelity import fixed_prompts, llm_fidelity
from .graphs import empty_graph
from .llama import LlamaFolder, open_llama
from .meter import Report, metered
from .observe import observe, run
from .precision import Precision
from .recipe import plan
from .reference import reference_bytes
from .staging import StagedPart, Staging, alone, part_key, record_files, writing
from .to_gguf import QUANTS, gguf_bytes, to_gguf
from .to_onnx import compare, examples, to_onnx
from .to_tensorrt import EngineOptions, add_engines, open_builder

Progress = Callable[[str, int, int], None]
_EXAMPLES = 2  # to fit the rounding to, and as many again to judge it by
_TOOLS = ("vllama", "torch", "onnx", "onnxscript", "onnxruntime", "gguf", "llama-cpp-python")
_WEIGHT_BYTES: dict[Precision, float] = {"fp32": 4, "fp16": 2, "int8": 1.25, "w8a16": 1.05}  # some are wider
_SPARE_BYTES = 1 << 20  # graphs, tables and the manifest


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
        quant: a name of `to_gguf.QUANTS`; None: the model's.
        precision: of the encoders, "int8" for CPUs, "fp16" or "w8a16" for GPUs, or "fp32"; None: "int8", with engines
            "fp16".
        engines: also build TensorRT engines. A bundle that is there already is given those that it lacks, and nothing
            else of it is made again.
        progress: called with (part, bytes done, bytes in all); a graph is first run "in float32", then written.
        report: told what each part took that was made now.

    Raises:
        SpecError: there is no such quantisation or precision, or there are no engines of that kind.
        FileError: a published file is not there or not what it should be, and nothing was written; or `out` is another
            bundle than is asked for.
        BackendError: TensorRT is not installed or cannot build an engine; the bundle is whole without.
        DiskFullError: it does not fit; finished parts are kept for the next call.
    """
    asked, chosen = precision, _precision(precision or ("fp16" if engines else "int8"))
    if quant is not None and quant not in QUANTS:
        raise SpecError(f"quantization {quant!r} is not known; use one of {', '.join(QUANTS)}")
    if engines and chosen == "int8":
        raise SpecError("--precision int8 is for CPUs, and TensorRT takes none of it; use fp16 or w8a16")
    builder = open_builder(engines) if engines else None
    step, told = progress or (lambda part, done, total: None), report or (lambda cost: None)
    with alone(out):
        if builder and os.path.isfile(out / MANIFEST):
            bundle = _there(out, spec, quant, asked)
        else:
            bundle = _new(spec, weights, out, quant or spec.llm.quantization, chosen, threads, step, told)
        return add_engines(bundle, builder, step, told) if builder else bundle


def _there(out: Path, spec: ModelSpec, quant: str | None, precision: str | None) -> Bundle:
    """The bundle that engines are added to; what was not asked for is as it is."""
    bundle = open_bundle(out)
    has = bundle.manifest.precision
    if (bundle.spec.name, bundle.spec.video, bundle.spec.audio) != (spec.name, spec.video, spec.audio):
        raise FileError(f"{out}: already there, a {bundle.spec.name} of another models.toml; choose another --out")
    for name, wanted, found in (("--quant", quant, has["llm"]), ("--precision", precision, has["frames"])):
        if wanted is not None and wanted != found:
            raise FileError(f"{out}: already there, with {name} {found}; choose another --out for {wanted}")
    if has["frames"] == "int8":
        raise FileError(
            f"{out}: already there, with graphs in int8, which are for CPUs; choose another --out for those of engines"
        )
    return bundle


def _new(
    spec: ModelSpec,
    weights: Path,
    out: Path,
    quant: str,
    precision: Precision,
    threads: int | None,
    step: Progress,
    report: Report,
) -> Bundle:
    parts = read_parts(spec, weights)
    llama = open_llama(spec, weights)
    staging = Staging(out)
    try:
        with writing("the export", out.parent):
            staging.need(_size(parts, llama, precision, quant))
            return _exported(spec, weights, staging, parts, llama, precision, quant, threads, step, report)
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
    report: Report,
) -> Bundle:
    sources = metered("sources", report, lambda: _hashed(weights, parts, llama, step), _total)
    tools = {name: version(name) for name in _TOOLS}

    def made(
        name: str, paths: tuple[Path, ...], facts: tuple[object, ...], make: Callable[[], StagedPart]
    ) -> StagedPart:
        hashes = [sources[_relative(path, weights)].sha256 for path in paths]
        key = part_key(spec_to_dict(spec), hashes, tools, *facts)
        return staging.make(name, key, lambda: metered(name, report, make, lambda part: _total(part.files)))

    staged = [
        made(part.name, part.sources, (precision,), partial(_graph, part, spec, weights, staging, precision, step))
        for part in parts
    ]
    tables = tuple(path for part in parts for path in part.sources)
    staged.append(made("positions", tables, (), partial(_positions, parts, staging.folder)))
    llm = f"llm {quant}"
    staged.append(made(llm, llama.sources, (quant,), partial(_llm, llama, spec, staging, quant, partial(step, llm))))
    manifest = Manifest(
        schema_version=SCHEMA,
        model=spec.name,
        license=spec.license,
        spec=spec_to_dict(spec),
        llm=_gguf(quant),
        sources=sources,
        files={name: record for part in staged for name, record in part.files.items()},
        precision={**{part.name: precision for part in parts}, "llm": quant},
        tools=tools,
        fidelity=tuple(row for part in staged for row in part.fidelity),
        widened=tuple(note for part in staged for note in part.widened),
        notes=_notes(llama),
    )
    if quant != llama.dtype:
        judge = partial(_judged, manifest, spec, staging, llama, threads, partial(step, "llm fidelity"))
        row = metered("llm fidelity", report, judge, lambda _: reference_bytes(llama))
        manifest = replace(manifest, fidelity=(*manifest.fidelity, row))
    staging.commit(manifest)
    return open_bundle(staging.out)


def _graph(
    part: Part, spec: ModelSpec, weights: Path, staging: Staging, precision: Precision, step: Progress
) -> StagedPart:
    """One graph, run in float32, written, and judged; its weights are mapped, and held one matrix at a time."""
    name, done, total = part.name, 0, sum(tensor.nbytes for tensor in part.state.values())

    def counted(size: int) -> None:
        nonlocal done
        done += size
        step(f"{name} in float32", min(done, total), total)

    graph, read = empty_graph(name, spec), Reader(name, spec, weights, counted)
    inputs, recipe = examples(graph, 2 * _EXAMPLES), None
    if precision == "int8" and graph.output != "embeds":
        expected, seen = observe(graph, read, inputs, _EXAMPLES)
        recipe = plan(graph, seen)
        # It is judged by what it was not fitted to.
        inputs, expected = {key: array[_EXAMPLES:] for key, array in inputs.items()}, expected[_EXAMPLES:]
    else:
        expected = run(graph, read, inputs)
    path = staging.folder / f"{name}.onnx"
    to_onnx(graph, read, path, precision, recipe, partial(step, name))
    read.close()
    cost = compare(path, inputs, expected)
    row = FidelityRow(name, precision, max_abs=cost.max_abs, relative=cost.relative, cosine=cost.cosine)
    widened = tuple(f"{name}: {note}" for note in recipe.widened) if recipe else ()
    return StagedPart(record_files(staging.folder, (path.name, f"{path.name}.data")), (row,), widened)


def _positions(parts: list[Part], folder: Path) -> StagedPart:
    (folder / POSITIONS).write_bytes(save(position_tables(parts)))  # `save_file` lets nobody else read it
    return StagedPart(record_files(folder, (POSITIONS,)))


def _llm(
    llama: LlamaFolder, spec: ModelSpec, staging: Staging, quant: str, step: Callable[[int, int], None]
) -> StagedPart:
    path = staging.folder / _gguf(quant)
    written = to_gguf(llama, spec, path, quant, step)
    return StagedPart(record_files(staging.folder, (path.name,)), widened=written.widened)


def _judged(
    manifest: Manifest,
    spec: ModelSpec,
    staging: Staging,
    llama: LlamaFolder,
    threads: int | None,
    step: Callable[[int, int], None],
) -> FidelityRow:
    prompts = fixed_prompts(Bundle(staging.folder, manifest, spec))
    return llm_fidelity(llama, staging.folder / manifest.llm, prompts, manifest.precision["llm"], threads, step)


def _gguf(quant: str) -> str:
    return f"llm-{quant}.gguf"


def _total(files: Mapping[str, FileRecord]) -> int:
    return sum(record.bytes for record in files.values())


def _hashed(weights: Path, parts: list[Part], llama: LlamaFolder, step: Progress) -> dict[str, FileRecord]:
    paths = sorted({path for part in parts for path in part.sources} | set(llama.sources))
    total, done = sum(path.stat().st_size for path in paths), 0

    def read(size: int) -> None:
        nonlocal done
        done += size
        step("sources", done, total)

    return {_relative(path, weights): hash_file(path, read) for path in paths}


def _size(parts: list[Part], llama: LlamaFolder, precision: Precision, quant: str) -> int:
    """About what the export writes."""
    weights = sum(tensor.numel() for part in parts for tensor in part.state.values())
    return int(weights * _WEIGHT_BYTES[precision]) + gguf_bytes(llama, quant) + _SPARE_BYTES


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
