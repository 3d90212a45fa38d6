"""Which channels are evened out, what stays wider, and that neither changes what the graph computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from vllama.export.checkpoint import Part
from vllama.export.folds import folds
from vllama.export.graphs import Graph, empty_graph
from vllama.export.lent import Read, lent
from vllama.export.observe import Seen, observe, run
from vllama.export.recipe import Recipe, plan
from vllama.export.to_onnx import examples
from vllama.runtime.spec import ModelSpec


def planned(part: Part, spec: ModelSpec, read: Read | None = None) -> tuple[Graph, Read, Recipe, dict[str, Seen]]:
    graph, read = empty_graph(part.name, spec), read or part.state.__getitem__
    _, seen = observe(graph, read, examples(graph, 2), 2)
    return graph, read, plan(graph, seen), seen


def largest_of_inputs(graph: Graph, read: Read, recipe: Recipe) -> dict[str, np.ndarray]:
    _, seen = observe(graph, recipe.read(read), examples(graph, 2), 2)
    return {key: each.activations * recipe.inputs.get(key, 1) for key, each in seen.items()}


@pytest.mark.parametrize("name", ["frames", "clips"])
def test_smoothed_graph_computes_the_same(name: str, other_spec: ModelSpec, other_parts: dict[str, Part]) -> None:
    graph, read, recipe, _ = planned(other_parts[name], other_spec)
    inputs = examples(graph, 2, seed=5)
    smoothed = recipe.read(read)

    def undone(key: str) -> Tensor:  # what divides an activation itself is a node of the exported graph
        factor = recipe.inputs.get(key)
        return smoothed(key) if factor is None else smoothed(key) * torch.from_numpy(factor)

    wanted = run(graph, read, inputs)
    assert recipe.inputs
    np.testing.assert_allclose(run(graph, undone, inputs), wanted, atol=2e-5)
    assert any(not np.allclose(each, 1) for each in recipe.rows.values())


@pytest.mark.parametrize("name", ["frames", "clips"])
def test_large_channels_of_norms_values_and_mlps_are_evened_out(
    name: str, other_spec: ModelSpec, other_parts: dict[str, Part]
) -> None:
    state = {key: tensor.clone() for key, tensor in other_parts[name].state.items()}
    for key, tensor in state.items():
        if key.endswith(("norm1.weight", "norm2.weight", "norm_1.weight", "norm_2.weight", "ln_vision.weight")):
            tensor[4] = 60
        elif key.endswith(("v_bias", "bias_v", "value.bias")):
            tensor[..., 4] = 60
        elif key.endswith("fc1.bias"):
            tensor[4] = 60
    part = replace(other_parts[name], state=state)
    graph, read, recipe, seen = planned(part, other_spec)
    after = largest_of_inputs(graph, read, recipe)
    taken = {key for fold in folds(graph) for key in fold.takers}
    uneven = {key for key in taken if seen[key].activations[4] > 8 * np.median(seen[key].activations)}
    assert len(uneven) > len(taken) / 3
    for key in uneven:
        before = seen[key].activations / np.median(seen[key].activations)
        assert after[key][4] / np.median(after[key]) < before[4] / 2, key


def test_every_product_is_seen_and_has_a_form(other_spec: ModelSpec, other_parts: dict[str, Part]) -> None:
    for name in ("frames", "clips"):
        graph, _, recipe, seen = planned(other_parts[name], other_spec)
        linears = {f"{key}.weight" for key, part in graph.named_modules() if isinstance(part, torch.nn.Linear)}
        assert linears <= seen.keys()
        assert recipe.forms.keys() == seen.keys()
        assert {key for fold in folds(graph) for key in fold.takers} <= seen.keys()


def test_image_qformer_is_wide_and_the_encoder_narrow(other_spec: ModelSpec, other_parts: dict[str, Part]) -> None:
    _, _, recipe, _ = planned(other_parts["frames"], other_spec)
    forms = {key.startswith("Qformer."): form for key, form in recipe.forms.items()}
    assert forms == {True: "wide", False: "narrow"}
    assert recipe.widened == ()


def test_what_rounding_hurts_most_is_kept_wider_and_named(other_spec: ModelSpec, other_parts: dict[str, Part]) -> None:
    graph, _, _, seen = planned(other_parts["frames"], other_spec)
    hurt = "visual_encoder.blocks.1.mlp.fc2.weight", "visual_encoder.blocks.0.attn.proj.weight"
    seen[hurt[0]] = replace(seen[hurt[0]], narrow=0.06, wide=0.02)
    seen[hurt[1]] = replace(seen[hurt[1]], narrow=0.5, wide=0.4)
    recipe = plan(graph, seen)
    assert (recipe.forms[hurt[0]], recipe.forms[hurt[1]]) == ("wide", "float")
    assert sorted(note.split()[0] for note in recipe.widened) == sorted(hurt)


def test_errors_seen_are_those_of_rounding(other_spec: ModelSpec, other_parts: dict[str, Part]) -> None:
    _, _, _, seen = planned(other_parts["frames"], other_spec)
    assert {*empty_graph("frames", other_spec).state_dict()} > {*seen} > set()
    for key, each in seen.items():
        assert 0 < each.wide < each.narrow < 0.05, (key, each.narrow, each.wide)


def test_only_the_first_of_the_batch_are_looked_at(other_spec: ModelSpec, other_parts: dict[str, Part]) -> None:
    part, graph = other_parts["clips"], empty_graph("clips", other_spec)
    ((key, array),) = examples(graph, 3).items()
    loud = array.copy()
    loud[2] *= 100
    (_, one), (_, other) = (observe(graph, part.state.__getitem__, {key: each}, 2) for each in (array, loud))
    assert one.keys() == other.keys() != set()
    for name in one:
        np.testing.assert_allclose(one[name].activations, other[name].activations, rtol=1e-4)


def test_watching_changes_nothing_and_is_undone(other_spec: ModelSpec, other_parts: dict[str, Part]) -> None:
    part, graph = other_parts["frames"], empty_graph("frames", other_spec)
    inputs = examples(graph, 3)
    output, _ = observe(graph, part.state.__getitem__, inputs, 2)
    np.testing.assert_allclose(output, run(graph, part.state.__getitem__, inputs), rtol=0, atol=1e-5)
    with lent(graph, part.state.__getitem__):
        pass
    assert not any(module._forward_pre_hooks for module in graph.modules())
