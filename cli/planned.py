"""What `vllama plan` plans: a bundle, or one that an export would make."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from vllama.runtime.bundle import Bundle, find_bundle, read_bundle, usual_kv
from vllama.runtime.errors import ModelNotFoundError, SpecError
from vllama.runtime.llm.llama_context import Kv
from vllama.runtime.llm.llm_file import LlmFacts, read_llm_facts
from vllama.runtime.llm.quants import QUANTS, LlamaDimensions, check_quant, quantised_facts
from vllama.runtime.plan import GraphNeed, graph_needs, make_plan, reckoned_needs
from vllama.runtime.precision import check_precision
from vllama.runtime.registry import find_spec, read_specs
from vllama.runtime.spec import ModelSpec


@dataclass(frozen=True)
class Wanted:
    """What was asked for; None where nothing was said."""

    model: str | None
    quant: str | None
    precision: str | None
    models: Path | None
    n_ctx: int | None
    kv: Kv | None

    @property
    def of_an_export(self) -> str | None:
        """The first option given that only an export has."""
        given = (("--quant", self.quant), ("--precision", self.precision), ("--models", self.models))
        return next((name for name, value in given if value is not None), None)


@dataclass(frozen=True)
class Planned:
    """A model, what is known of it, and how it shall run.

    made: whether there is a bundle. precision: of the encoders. disk: bytes of the bundle.
    """

    model: str
    made: bool
    spec: ModelSpec
    quant: str
    precision: str
    facts: LlmFacts
    graphs: dict[str, GraphNeed]
    disk: int
    n_ctx: int
    kv: Kv

    def quant_that_fits(self, free: int) -> str | None:
        """The largest quantisation with which one can index, then ask, in so many bytes; for what is not made yet."""
        about = None if self.made else _dimensions(self.spec)
        if about is None:
            return None
        sized = sorted(((quantised_facts(about, name), name) for name in QUANTS), key=lambda each: -each[0].weights)
        for facts, name in sized:
            plan = make_plan(facts, self.graphs, self.n_ctx, self.kv)
            if max(plan.ram_indexing, plan.ram_answering) <= free:
                return name
        return None


def find_planned(wanted: Wanted) -> Planned:
    """The bundle of that name; where there is none, or an option of an export was given, the entry of models.toml.

    Raises:
        ModelNotFoundError: there is neither.
        SpecError: what was asked for is unknown, or the entry does not say enough.
        FileError: a bundle cannot be read.
    """
    if wanted.of_an_export is not None:
        if wanted.model is None:
            raise SpecError(f"{wanted.of_an_export} is for a model to be exported; name it with --model")
        return _to_be_made(_entry(wanted.model, wanted.models), wanted)
    try:
        folder = find_bundle(wanted.model)
    except ModelNotFoundError:
        spec = read_specs().get(wanted.model or "")
        if spec is None:
            raise
        return _to_be_made(spec, wanted)
    return _made(read_bundle(folder), wanted)


def _entry(model: str, models: Path | None) -> ModelSpec:
    """The entry of that name; else that of a bundle, whose manifest has it."""
    try:
        return find_spec(model, models)
    except ModelNotFoundError:
        with suppress(ModelNotFoundError):
            return read_bundle(find_bundle(model)).spec
        raise


def _made(bundle: Bundle, wanted: Wanted) -> Planned:
    manifest = bundle.manifest
    return Planned(
        model=manifest.model,
        made=True,
        spec=bundle.spec,
        quant=manifest.precision["llm"],
        precision=manifest.precision["frames"],
        facts=read_llm_facts(bundle.llm),
        graphs=graph_needs(bundle),
        disk=sum(record.bytes for record in manifest.files.values()),
        n_ctx=wanted.n_ctx or bundle.spec.llm.n_ctx,
        kv=wanted.kv or bundle.kv,
    )


def _to_be_made(spec: ModelSpec, wanted: Wanted) -> Planned:
    about = _dimensions(spec)
    if about is None:
        raise SpecError(
            f"models.{spec.name}: llm.dimensions is missing, and an export cannot be reckoned without; give an entry "
            "of your own that has it (--models)"
        )
    quant = check_quant(wanted.quant or spec.llm.quantization)
    precision = check_precision(wanted.precision or "int8")
    facts, graphs = quantised_facts(about, quant), reckoned_needs(spec, precision)
    return Planned(
        model=spec.name,
        made=False,
        spec=spec,
        quant=quant,
        precision=precision,
        facts=facts,
        graphs=graphs,
        disk=facts.weights + sum(need.weights for need in graphs.values()),
        n_ctx=wanted.n_ctx or spec.llm.n_ctx,
        kv=wanted.kv or usual_kv(spec, quant),
    )


def _dimensions(spec: ModelSpec) -> LlamaDimensions | None:
    found = spec.llm.dimensions
    if found is None:
        return None
    return LlamaDimensions(hidden_size=spec.llm.hidden_size, **asdict(found))
