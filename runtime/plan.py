"""What a model needs and where it goes: the arithmetic behind `--gpu-layers auto` and `vllama plan`, on facts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .bundle import Bundle
from .llm.llama_context import UBATCH_CPU, UBATCH_GPU, Kv
from .llm.llm_file import LlmFacts
from .machine import GpuMemory
from .placement import GPU_BATCH
from .precision import Precision, graph_bytes
from .spec import AudioEncoder, ModelSpec, VisionEncoder

_ENCODERS, _INDEXING = ("frames", "clips"), ("frames", "clips", "video")  # video: the memory of the whole
_KV_BYTES: dict[Kv, float] = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}  # of one value; q8_0: 32 of them and a scale
_SMALLEST_KV: Kv = "q8_0"
_LEAST_CTX = 512  # a question with its media, and a short answer
_KV_STEP = 256  # llama.cpp rounds n_ctx up to a multiple of it
_WIDTHS = 6.25  # rows of hidden_size that are alive at once, at most, beside the logits (read off llama.cpp's own log)
_PROCESS_BYTES = 120_000_000  # Python and the libraries, before any model
_DECODING_BYTES = 30_000_000  # FFmpeg, and pictures and sound on their way
_MARGIN, _LEAST_MARGIN = 0.05, 256_000_000  # of a GPU: its desktop, and what is lost between buffers
_CUDA_BYTES = 500_000_000  # what a process takes of a GPU before any buffer, where that is not in what is free
_GPU_WORKSPACE = 256_000_000  # of the libraries that run the encoders; assumed, not seen on a GPU


@dataclass(frozen=True)
class GraphNeed:
    """Bytes of a graph's weights, of what it has between them for one picture or sound, and of its weights on a GPU."""

    weights: int
    activations: int
    gpu_weights: int


@dataclass(frozen=True)
class Part:
    """Bytes of one part, in RAM and on the GPU. opened: while indexing, while answering, or both."""

    name: str
    ram: int
    gpu: int
    indexing: bool
    answering: bool


@dataclass(frozen=True)
class Plan:
    """Where the parts of a model go; gpu_layers: as in `LlmSettings`."""

    parts: tuple[Part, ...]
    gpu_layers: int

    @property
    def ram_indexing(self) -> int:
        """`vllama index`."""
        return sum(part.ram for part in self.parts if part.indexing)

    @property
    def ram_encoding(self) -> int:
        """A question about a clip that has to be encoded first."""
        return sum(part.ram for part in self.parts)

    @property
    def ram_answering(self) -> int:
        """A question about a saved timeline."""
        return sum(part.ram for part in self.parts if part.answering)

    @property
    def gpu(self) -> int:
        """At most, on the GPU."""
        return sum(part.gpu for part in self.parts)

    def in_one_memory(self) -> Plan:
        """The same where the GPU has no memory of its own: what is on it takes RAM, too."""
        return replace(self, parts=tuple(replace(part, ram=part.ram + part.gpu) for part in self.parts))


def graph_needs(bundle: Bundle) -> dict[str, GraphNeed]:
    """What each graph of a bundle needs."""
    needs = {}
    for name in bundle.graphs:
        files = bundle.manifest.files.items()
        weights = sum(record.bytes for file, record in files if file.startswith(f"{name}.onnx"))
        engine = bundle.manifest.engines.get(name)
        needs[name] = GraphNeed(weights, _activations(name, bundle.spec), engine.bytes if engine else weights)
    return needs


def reckoned_needs(spec: ModelSpec, precision: Precision) -> dict[str, GraphNeed]:
    """What each graph of a bundle will need that is not made yet."""
    sizes = graph_bytes(spec, precision)
    return {name: GraphNeed(size, _activations(name, spec), size) for name, size in sizes.items()}


def kv_bytes(facts: LlmFacts, n_ctx: int, kv: Kv) -> int:
    """The KV cache of all layers."""
    return int(len(facts.blocks) * _cells(n_ctx) * 2 * facts.num_kv_heads * facts.head_size * _KV_BYTES[kv])


def compute_bytes(facts: LlmFacts, n_ctx: int, kv: Kv, n_ubatch: int) -> int:
    """llama.cpp's compute buffer: logits or scores of so many rows, and what lies between the layers."""
    rows, cells, width = min(n_ubatch, n_ctx), _cells(n_ctx), int(_WIDTHS * facts.hidden_size)
    if kv == "f32":  # without flash attention all scores are there at once
        return 4 * rows * (max(facts.n_vocab, facts.num_heads * cells + facts.hidden_size) + width + cells)
    return rows * (4 * (facts.n_vocab + width) + 2 * cells)


def gpu_bytes(facts: LlmFacts, layers: int, n_ctx: int, kv: Kv) -> int:
    """What so many layers take of a GPU: their weights, their part of the KV cache, and the compute buffer.

    llama.cpp moves the output first, which counts as a layer, then the blocks from the last one on. While some stay
    behind, one of their matrices at a time is copied over for a long prompt.
    """
    if layers < 1:
        return 0
    count = len(facts.blocks)
    moved = min(layers - 1, count)
    weights = facts.output + sum(facts.blocks[count - moved :])
    copies = facts.largest if moved < count else 0
    return weights + kv_bytes(facts, n_ctx, kv) * moved // count + compute_bytes(facts, n_ctx, kv, UBATCH_GPU) + copies


def layers_that_fit(facts: LlmFacts, n_ctx: int, kv: Kv, budget: int) -> int:
    """The most layers, the output among them, whose needs are within so many bytes of a GPU; 0: none."""
    most = len(facts.blocks) + 1
    return next(layers for layers in range(most, -1, -1) if gpu_bytes(facts, layers, n_ctx, kv) <= max(budget, 0))


def usable_bytes(gpus: Sequence[GpuMemory], *, started: bool) -> int:
    """What may be planned of the memory that GPUs have free.

    Args:
        started: what is free was asked by a process that had begun to use the GPU.
    """
    own = 0 if started else _CUDA_BYTES
    return sum(max(0, gpu.free - own - max(int(_MARGIN * gpu.total), _LEAST_MARGIN)) for gpu in gpus)


def encoders_gpu_bytes(graphs: Mapping[str, GraphNeed]) -> int:
    """What the four graphs take of a GPU when they are open together, each with what its largest batch took."""
    return sum(need.gpu_weights + GPU_BATCH * need.activations for need in graphs.values()) + _GPU_WORKSPACE


def make_plan(
    facts: LlmFacts,
    graphs: Mapping[str, GraphNeed],
    n_ctx: int,
    kv: Kv,
    *,
    gpu_budget: int = 0,
    gpu_encoders: bool = False,
    gpu_llm: bool = True,
) -> Plan:
    """Where everything goes.

    Args:
        gpu_budget: bytes of a GPU that may be used, from `usable_bytes`; 0: there is none.
        gpu_encoders: the encoders go there, too, and before the language model.
        gpu_llm: whether llama.cpp can use it.
    """
    encoders = encoders_gpu_bytes(graphs) if gpu_encoders else 0
    layers = layers_that_fit(facts, n_ctx, kv, gpu_budget - encoders) if gpu_llm else 0
    moved = max(0, layers - 1)
    count = len(facts.blocks)
    on_gpu = sum(facts.blocks[count - moved :]) + (facts.output if layers else 0)
    cache = kv_bytes(facts, n_ctx, kv)
    compute = compute_bytes(facts, n_ctx, kv, UBATCH_GPU if layers else UBATCH_CPU)
    gpu_compute = gpu_bytes(facts, layers, n_ctx, kv) - on_gpu - cache * moved // count if layers else 0
    parts = [Part("Python and libraries", _PROCESS_BYTES, 0, True, True)]
    parts += [Part("decoding", _DECODING_BYTES, 0, True, False)]
    for name, need in graphs.items():
        ram, gpu = (0, need.gpu_weights) if gpu_encoders else (need.weights + need.activations, 0)
        parts.append(Part(name, ram, gpu, name in _INDEXING, name not in _ENCODERS))
    if gpu_encoders:
        rest = encoders - sum(need.gpu_weights for need in graphs.values())
        parts.append(Part("encoders at work", 0, rest, True, True))
    parts += [
        Part("LLM weights", facts.weights - on_gpu, on_gpu, False, True),
        Part("KV cache", cache - cache * moved // count, cache * moved // count, False, True),
        Part("LLM at work", compute, gpu_compute, False, True),
    ]
    return Plan(tuple(parts), layers)


def features_per_hour(spec: ModelSpec, value_bytes: int) -> int:
    """Bytes on disk of an hour of video, a picture a second, with its sound, which is encoded half overlapping.

    Args:
        value_bytes: of one value of a feature: 2 or 4.
    """
    qformer = spec.video.qformer
    values = 3600.0 * qformer.query_tokens * qformer.hidden_size
    if spec.audio is not None:
        values += 2 * 3600 / spec.audio.clip_seconds * spec.audio.encoder.output_size
    return int(values * value_bytes)


def what_fits(facts: LlmFacts, graphs: Mapping[str, GraphNeed], n_ctx: int, kv: Kv, free: int) -> tuple[Kv, int] | None:
    """The type of KV cache and the longest context, n_ctx at most, with which a question fits so many bytes of RAM."""
    for size in (n_ctx, *range((n_ctx - 1) // _KV_STEP * _KV_STEP, _LEAST_CTX - 1, -_KV_STEP)):
        for each in dict.fromkeys((kv, _SMALLEST_KV)):
            if make_plan(facts, graphs, size, each).ram_encoding <= free:
                return each, size
    return None


def _cells(n_ctx: int) -> int:
    return -(-n_ctx // _KV_STEP) * _KV_STEP


def _activations(graph: str, spec: ModelSpec) -> int:
    """What one block has alive at once, in float32: an attention with its scores, or an MLP with its inner rows."""
    if graph == "frames":
        return _block(spec.video.patches + 1, spec.video.encoder)
    if graph == "clips" and spec.audio is not None:
        return _block(spec.audio.patches + 1, spec.audio.encoder)
    return 0  # the two small Q-formers


def _block(tokens: int, encoder: VisionEncoder | AudioEncoder) -> int:
    width = encoder.hidden_size
    attention = 5 * width + 2 * encoder.num_heads * tokens
    return 4 * tokens * max(attention, 2 * width + 3 * encoder.intermediate_size)
