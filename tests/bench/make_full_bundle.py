"""A bundle of full size on random weights, in minutes and without checkpoints: for speed and memory on a GPU.

    python tests/bench/make_full_bundle.py --out FOLDER [--model video-llama-2-7b-chat] [--precision fp16]
                                           [--quant Q4_K_M]

It is what `vllama export` makes of `make_full_size.py`'s checkpoints, but that nothing is compared and the language
model's matrices are one piece of noise, row by row from another place of it. 7 GB for a 7B.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from make_full_size import KEYS, Noise, recorded_llama, write_tokenizer, write_values
from safetensors.numpy import save
from torch import Tensor

from vllama.export.graphs import empty_graph, graph_names
from vllama.export.llama import LlamaConfig, tensor_shapes
from vllama.export.staging import record_files
from vllama.export.to_gguf import to_gguf
from vllama.export.to_onnx import to_onnx
from vllama.export.vocabulary import Vocabulary, read_vocabulary
from vllama.runtime.bundle import POSITIONS, open_bundle
from vllama.runtime.manifest import SCHEMA, Manifest, write_manifest
from vllama.runtime.precision import Precision
from vllama.runtime.registry import find_spec, spec_to_dict
from vllama.runtime.spec import ModelSpec

_STEP = 97  # values from one row to the next


@dataclass(frozen=True)
class NoiseLlama:
    """What `to_gguf` takes."""

    config: LlamaConfig
    vocabulary: Vocabulary
    noise: Tensor

    def tensor(self, name: str) -> Tensor:
        """A view of the noise."""
        shape = dict(tensor_shapes(self.config))[name]
        if len(shape) == 1:
            return torch.ones(shape)
        return self.noise.as_strided(shape, (_STEP, 1))


def main() -> None:
    """Make it beside FOLDER, then rename it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="a folder that git ignores; it must not exist")
    parser.add_argument("--model", default="video-llama-2-7b-chat", help="an entry of models.toml")
    parser.add_argument("--precision", default="fp16", choices=("fp16", "w8a16", "fp32"))
    parser.add_argument("--quant", default="Q4_K_M", help="as in `vllama export`")
    given = parser.parse_args()
    if given.out.exists():
        parser.error(f"--out: {given.out} is there already")
    folder = given.out.with_name(f"{given.out.name}.part")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was stopped
    folder.mkdir(parents=True)
    make(find_spec(given.model), folder, given.precision, given.quant)
    folder.rename(given.out)
    print(open_bundle(given.out).folder)


def make(spec: ModelSpec, folder: Path, precision: Precision, quant: str) -> None:
    """All of it, and a line for each part."""
    torch.manual_seed(0)
    noise, graphs = Noise(), graph_names(spec)
    for name in graphs:
        started = time.perf_counter()
        graph = empty_graph(name, spec)
        shapes = {key: tensor.shape for key, tensor in graph.state_dict().items()}

        def read(key: str, shapes: dict[str, torch.Size] = shapes) -> Tensor:
            tensor = torch.empty(shapes[key])
            write_values(tensor, key, noise)
            return tensor

        to_onnx(graph, read, folder / f"{name}.onnx", precision)
        said(folder / f"{name}.onnx", started)
    started, llm = time.perf_counter(), f"llm-{quant}.gguf"
    to_gguf(noise_llama(spec), spec, folder / llm, quant)
    said(folder / llm, started)
    (folder / POSITIONS).write_bytes(save(positions(spec)))
    files = record_files(folder, sorted(path.name for path in folder.iterdir()))
    precisions: dict[str, str] = dict.fromkeys(graphs, precision)
    precisions["llm"] = quant
    write_manifest(
        folder, Manifest(SCHEMA, spec.name, "random", spec_to_dict(spec), llm, {}, files, precisions, {}, ())
    )


def noise_llama(spec: ModelSpec) -> NoiseLlama:
    shapes = recorded_llama(spec, json.loads(KEYS.read_text("utf-8")))
    rows, hidden = shapes["model.embed_tokens.weight"][0]
    heads, inner = hidden // 128, shapes["model.layers.0.mlp.gate_proj.weight"][0][0]
    layers = sum(key.endswith(".q_proj.weight") for key in shapes)
    config = LlamaConfig(rows, hidden, inner, layers, heads, heads, 1e-5, 10000.0, 4096)
    with tempfile.TemporaryDirectory() as tokenizer:
        write_tokenizer(Path(tokenizer) / "tokenizer.model", rows)
        vocabulary = read_vocabulary(Path(tokenizer), rows)
    return NoiseLlama(config, vocabulary, 0.02 * torch.randn(rows * _STEP + inner))


def positions(spec: ModelSpec) -> dict[str, np.ndarray]:
    """As `vllama.export.checkpoint.position_tables`."""
    video = spec.video.video_qformer
    tables = {"video": torch.randn(video.max_frames, spec.video.qformer.hidden_size)}
    if spec.audio:
        tables["audio"] = torch.randn(spec.audio.audio_qformer.max_clips, spec.audio.encoder.output_size)
    return {name: 0.02 * table.numpy() for name, table in tables.items()}


def said(path: Path, started: float) -> None:
    written = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    print(f"{path.name}: {written:,} bytes in {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
