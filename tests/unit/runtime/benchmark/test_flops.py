"""The arithmetic of each graph against what torch counts when it runs that graph."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vllama.export.graphs import GraphName, empty_graph
from vllama.export.to_onnx import examples
from vllama.runtime.benchmark.flops import audio_flops, clip_flops, frame_flops, video_flops
from vllama.runtime.registry import find_spec
from vllama.runtime.spec import ModelSpec


@pytest.mark.parametrize("name", ["frames", "video", "clips", "audio"])
@pytest.mark.parametrize("count", [1, 3])
def test_flops_of_a_graph_are_those_that_torch_counts(vicuna_spec: ModelSpec, name: str, count: int) -> None:
    spec, hidden = vicuna_spec, vicuna_spec.llm.hidden_size
    assert spec.audio is not None
    ours = {
        "frames": lambda: count * frame_flops(spec.video),
        "video": lambda: video_flops(spec.video, count, hidden),
        "clips": lambda: count * clip_flops(spec.audio),
        "audio": lambda: audio_flops(spec.audio, count, hidden),
    }
    graph = empty_graph(cast(GraphName, name), spec).to_empty(device="cpu").requires_grad_(False)
    inputs = [torch.from_numpy(array) for array in examples(graph, count, 0).values()]
    with FlopCounterMode(display=False) as counter:
        graph(*inputs)
    assert ours[name]() == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_full_size_frame_is_half_a_trillion_operations() -> None:
    video = find_spec("video-llama-2-7b-chat").video
    assert 5.2e11 < frame_flops(video) < 5.4e11
