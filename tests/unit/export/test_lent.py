from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vllama.export.checkpoint import Part, build_graph
from vllama.export.graphs import GraphName, empty_graph
from vllama.export.lent import hollow, is_matrix, lent
from vllama.export.to_onnx import examples
from vllama.runtime.spec import ModelSpec


@pytest.mark.parametrize("name", ["frames", "video", "clips", "audio"])
def test_lent_weights_give_what_held_ones_give(
    name: GraphName, other_spec: ModelSpec, other_parts: dict[str, Part]
) -> None:
    part, graph = other_parts[name], empty_graph(name, other_spec)
    inputs = [torch.from_numpy(array) for array in examples(graph, 2).values()]
    with lent(graph, part.state.__getitem__):
        found = graph(*inputs)
    with torch.no_grad():
        torch.testing.assert_close(found, build_graph(part, other_spec)(*inputs), rtol=0, atol=1e-5)


def test_matrices_are_held_only_while_their_module_runs(other_spec: ModelSpec, other_parts: dict[str, Part]) -> None:
    part, graph = other_parts["frames"], empty_graph("frames", other_spec)
    held: list[int] = []

    def read(key: str) -> Tensor:
        if is_matrix(key, part.state[key]):
            held.append(sum(is_matrix(*each) and not each[1].isnan().all() for each in graph.named_parameters()))
        return part.state[key]

    with lent(graph, read):
        assert held == []
        graph(*[torch.from_numpy(array) for array in examples(graph, 2).values()])
    assert len(held) == sum(is_matrix(key, tensor) for key, tensor in part.state.items())
    assert max(held) == 0
    assert all(each.isnan().all() for key, each in graph.named_parameters() if is_matrix(key, each))


def test_failure_inside_gives_the_weights_back(other_spec: ModelSpec, other_parts: dict[str, Part]) -> None:
    part, graph = other_parts["audio"], empty_graph("audio", other_spec)
    inputs = [torch.from_numpy(array) for array in examples(graph, 2).values()]
    with pytest.raises(RuntimeError), lent(graph, part.state.__getitem__):
        graph(inputs[0][..., :3], inputs[1][..., :3])
    assert all(each.isnan().all() for key, each in graph.named_parameters() if is_matrix(key, each))
    assert not any(module._forward_pre_hooks for module in graph.modules())


def test_hollow_graph_takes_no_memory_for_its_matrices(other_spec: ModelSpec, other_parts: dict[str, Part]) -> None:
    graph = empty_graph("frames", other_spec)
    matrices = hollow(graph, other_parts["frames"].state.__getitem__)
    assert len(matrices) > 20
    for key in matrices:
        assert graph.get_parameter(key).untyped_storage().nbytes() == 4, key
