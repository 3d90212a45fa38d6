"""The files of the miniature are the original's: the exporter reads them like any other model's."""

from __future__ import annotations

from pathlib import Path

import torch

from vllama.export.checkpoint import position_tables, read_parts
from vllama.export.graphs import ClipsGraph, FramesGraph
from vllama.export.mini.branches import Branches
from vllama.export.mini.llama import Llama, LlamaShape
from vllama.export.mini.write import write_weights
from vllama.runtime.registry import find_spec


def test_written_weights_are_read_by_the_exporter(tmp_path: Path) -> None:
    spec = find_spec("miniature")
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        (tokenizer / name).write_text("{}")
    torch.manual_seed(0)
    branches = Branches(spec)
    llama = Llama(LlamaShape(vocab_size=64, num_hidden_layers=1))
    write_weights(spec, tmp_path / "out", FramesGraph(spec), ClipsGraph(spec), branches, llama, tokenizer)
    parts = {part.name: part for part in read_parts(spec, tmp_path / "out")}
    assert set(parts) == {"frames", "video", "clips", "audio"}
    kept = parts["video"].state["llama_proj.weight"].float()
    assert torch.allclose(kept, branches.video.llama_proj.weight, atol=2e-3)
    assert position_tables(parts.values())["video"].shape == (32, 192)
    assert (tmp_path / "out" / spec.files.llm.name / "model.safetensors").exists()
