"""The order of an export: check everything, make each part, judge it, become a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.numpy import save

from vllama.runtime.bundle import POSITIONS, Bundle, open_bundle
from vllama.runtime.errors import FileError
from vllama.runtime.manifest import SCHEMA, FidelityRow, FileRecord, Manifest, hash_file
from vllama.runtime.precision import graph_bytes
from vllama.runtime.progress import counted
from vllama.runtime.registry import spec_to_dict
from vllama.runtime.version import own_version

from .checkpoint import Part, Reader, position_tables, read_parts
from .fidelity import fixed_prompts, llm_fidelity
from .graphs import empty_graph
from .llama import LlamaFolder, open_llama
from .meter import Report, metered
from .observe import observe, run
from .recipe import plan
from .reference import reference_bytes
from .request import Request
from .staging import StagedPart, Staging, part_key, record_files, writing
from .to_gguf import gguf_bytes, to_gguf
from .to_onnx import compare, examples, to_onnx
from .to_tensorrt import Progress, add_engines, open_builder

_EXAMPLES = 2  # to fit the rounding to, and as many again to judge it by
_TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "gguf", "llama-cpp-python")
_WIDER = 1.1  # what int8 has rounded twice, or not at all, where that was too far off
_SPARE_BYTES = 1 << 20  # graphs, tables and the manifest


def run_export(request: Request, step: Progress, report: Report) -> Bundle:
    """Do what was asked for, as `export_model` says, which has checked it."""
    builder = open_builder(request.engines, request.threads) if request.engines else None
    with _limited(request.threads):
        bundle = _there(request) if request.adds_engines else _new(request, step, report)
        return add_engines(bundle, builder, step, report) if builder else bundle


@contextmanager
def _limited(threads: int | None) -> Iterator[None]:
    """Torch's threads, which are those of the process, as long as the export takes."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _there(request: Request) -> Bundle:
    """The bundle that engines are added to; what was not asked for is as it is."""
    out, spec, bundle = request.out, request.spec, open_bundle(request.out)
    has = bundle.manifest.precision
    if (bundle.spec.name, bundle.spec.video, bundle.spec.audio) != (spec.name, spec.video, spec.audio):
        raise FileError(f"{out}: already there, a {bundle.spec.name} of another models.toml; choose another --out")
    asked = (("--quant", request.quant, has["llm"]), ("--precision", request.precision, has["frames"]))
    for name, wanted, found in asked:
        if wanted is not None and wanted != found:
            raise FileError(f"{out}: already there, with {name} {found}; choose another --out for {wanted}")
    if has["frames"] == "int8":
        raise FileError(
            f"{out}: already there, with graphs in int8, which are for CPUs; choose another --out for those of engines"
        )
    return bundle


def _new(request: Request, step: Progress, report: Report) -> Bundle:
    parts, llama = read_parts(request.spec, request.weights), open_llama(request.spec, request.weights)
    staging = Staging(request.out)
    try:
        with writing("the export", request.out.parent):
            staging.need(_size(llama, request))
            return _Export(request, parts, llama, staging, step, report).run()
    finally:
        staging.discard_if_empty()


@dataclass(frozen=True)
class _Export:
    """An export whose files are opened and checked."""

    request: Request
    parts: list[Part]
    llama: LlamaFolder
    staging: Staging
    step: Progress
    report: Report

    def run(self) -> Bundle:
        """Make what is not finished, judge the whole, become the bundle."""
        sources = metered("sources", self.report, self._hashed, _total)
        manifest = self._manifest(sources, self._staged(sources))
        if self.request.llm_type != self.llama.dtype:
            judge = partial(self._judged, manifest, partial(self.step, "llm fidelity"))
            row = metered("llm fidelity", self.report, judge, lambda _: reference_bytes(self.llama))
            manifest = replace(manifest, fidelity=(*manifest.fidelity, row))
        self.staging.commit(manifest)
        return open_bundle(self.staging.out)

    def _staged(self, sources: Mapping[str, FileRecord]) -> list[StagedPart]:
        made, quant = partial(self._made, sources), self.request.llm_type
        precision = (self.request.encoder_type,)
        staged = [made(part.name, part.sources, precision, partial(self._graph, part)) for part in self.parts]
        tables = tuple(path for part in self.parts for path in part.sources)
        staged.append(made("positions", tables, (), self._positions))
        llm = f"llm {quant}"
        staged.append(made(llm, self.llama.sources, (quant,), partial(self._llm, partial(self.step, llm))))
        return staged

    def _made(
        self,
        sources: Mapping[str, FileRecord],
        name: str,
        paths: tuple[Path, ...],
        facts: tuple[str, ...],
        make: Callable[[], StagedPart],
    ) -> StagedPart:
        """A part that is made from these files and facts, now or by an earlier try."""
        hashes = [sources[self._relative(path)].sha256 for path in paths]
        key = part_key(spec_to_dict(self.request.spec), hashes, _tools(), *facts)
        return self.staging.make(name, key, lambda: metered(name, self.report, make, lambda part: _total(part.files)))

    def _manifest(self, sources: dict[str, FileRecord], staged: list[StagedPart]) -> Manifest:
        spec, quant = self.request.spec, self.request.llm_type
        return Manifest(
            schema_version=SCHEMA,
            model=spec.name,
            license=spec.license,
            spec=spec_to_dict(spec),
            llm=_gguf(quant),
            sources=sources,
            files={name: record for part in staged for name, record in part.files.items()},
            precision={**{part.name: self.request.encoder_type for part in self.parts}, "llm": quant},
            tools=_tools(),
            fidelity=tuple(row for part in staged for row in part.fidelity),
            widened=tuple(note for part in staged for note in part.widened),
            notes=_notes(self.llama),
        )

    def _hashed(self) -> dict[str, FileRecord]:
        paths = sorted({path for part in self.parts for path in part.sources} | set(self.llama.sources))
        read = counted(partial(self.step, "sources"), sum(path.stat().st_size for path in paths))
        return {self._relative(path): hash_file(path, read) for path in paths}

    def _graph(self, part: Part) -> StagedPart:
        """One graph, run in float32, written, and judged; its weights are mapped, and held one matrix at a time."""
        name, precision, folder = part.name, self.request.encoder_type, self.staging.folder
        total = sum(tensor.nbytes for tensor in part.state.values())
        graph = empty_graph(name, self.request.spec)
        step = counted(partial(self.step, f"{name} in float32"), total)
        read = Reader(name, self.request.spec, self.request.weights, step)
        inputs, recipe = examples(graph, 2 * _EXAMPLES), None
        if precision == "int8" and graph.output != "embeds":
            expected, seen = observe(graph, read, inputs, _EXAMPLES)
            recipe = plan(graph, seen)
            # It is judged by what it was not fitted to.
            inputs, expected = {key: array[_EXAMPLES:] for key, array in inputs.items()}, expected[_EXAMPLES:]
        else:
            expected = run(graph, read, inputs)
        path = folder / f"{name}.onnx"
        to_onnx(graph, read, path, precision, recipe, partial(self.step, name))
        read.close()
        cost = compare(path, inputs, expected, self.request.threads)
        row = FidelityRow(name, precision, max_abs=cost.max_abs, relative=cost.relative, cosine=cost.cosine)
        widened = tuple(f"{name}: {note}" for note in recipe.widened) if recipe else ()
        return StagedPart(record_files(folder, (path.name, f"{path.name}.data")), (row,), widened)

    def _positions(self) -> StagedPart:
        folder = self.staging.folder
        (folder / POSITIONS).write_bytes(save(position_tables(self.parts)))  # `save_file` lets nobody else read it
        return StagedPart(record_files(folder, (POSITIONS,)))

    def _llm(self, step: Callable[[int, int], None]) -> StagedPart:
        quant, folder = self.request.llm_type, self.staging.folder
        path = folder / _gguf(quant)
        widened = to_gguf(self.llama, self.request.spec, path, quant, step, self.request.threads)
        return StagedPart(record_files(folder, (path.name,)), widened=widened)

    def _judged(self, manifest: Manifest, step: Callable[[int, int], None]) -> FidelityRow:
        threads, bundle = self.request.threads, Bundle(self.staging.folder, manifest, self.request.spec)
        prompts = fixed_prompts(bundle, threads)
        return llm_fidelity(self.llama, bundle.llm, prompts, manifest.precision["llm"], threads, step)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.request.weights).as_posix()


def _tools() -> dict[str, str]:
    return {"vllama": own_version(), **{name: version(name) for name in _TOOLS}}


def _gguf(quant: str) -> str:
    return f"llm-{quant}.gguf"


def _total(files: Mapping[str, FileRecord]) -> int:
    return sum(record.bytes for record in files.values())


def _size(llama: LlamaFolder, request: Request) -> int:
    """About what the export writes."""
    graphs = sum(graph_bytes(request.spec, request.encoder_type).values())
    return int(_WIDER * graphs) + gguf_bytes(llama, request.llm_type) + _SPARE_BYTES


def _notes(llama: LlamaFolder) -> tuple[str, ...]:
    ignored = f"{len(llama.ignored)} keys of the LLM are not needed: {llama.ignored[0]} ..." if llama.ignored else ""
    return (*llama.notes, *([ignored] if ignored else []))
