"""What an export to 8 bits does with each tensor of a graph: chosen by what a run of the graph has shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vllama.runtime.types import Float32

from .folds import folds
from .graphs import Graph
from .lent import Read
from .observe import Seen
from .rounding import even_factor

Form = Literal["narrow", "wide", "float"]
_NARROW_LIMIT = 0.04  # relative error of one product; without outliers it is 0.011 to 0.017
_WIDE_LIMIT = 0.08


@dataclass
class Recipe:
    """By key of the tensor; what is not named stays as it is.

    rows, columns: factors of a tensor. inputs: factors of what a matrix is multiplied with. forms: how its product is
    made: "narrow" with weights rounded once, "wide" with what that left rounded too, "float" not rounded. widened: what
    was too far off in the form it should have had, in words.
    """

    rows: dict[str, Float32] = field(default_factory=dict)
    columns: dict[str, Float32] = field(default_factory=dict)
    inputs: dict[str, Float32] = field(default_factory=dict)
    forms: dict[str, Form] = field(default_factory=dict)
    widened: tuple[str, ...] = ()

    def read(self, read: Read) -> Read:
        """The tensors of `read` with their factors, float32."""

        def scaled(key: str) -> Tensor:
            tensor = read(key).to(torch.float32)
            if key in self.columns:
                tensor = tensor * torch.from_numpy(self.columns[key])
            if key in self.rows:
                rows = torch.from_numpy(self.rows[key])
                tensor = tensor * (rows[:, None] if tensor.ndim == 2 else rows)
            return tensor

        return scaled


def plan(graph: Graph, seen: Mapping[str, Seen]) -> Recipe:
    """The recipe for a graph whose every product was seen."""
    recipe = Recipe()
    for fold in folds(graph):
        largest = np.maximum.reduce([seen[key].activations for key in fold.takers])
        factor = even_factor(largest, np.maximum.reduce([seen[key].weights for key in fold.takers]))
        recipe.columns.update(dict.fromkeys(fold.takers, factor))
        for key, first in fold.makers:
            rows = recipe.rows.setdefault(key, np.ones(_channels(graph, key), np.float32))
            rows[first : first + len(factor)] /= factor
        if not fold.makers:
            recipe.inputs.update(dict.fromkeys(fold.takers, np.reciprocal(factor)))
    usual = {key: _usual(key) for key in seen}
    recipe.forms = {key: _form(usual[key], each) for key, each in seen.items()}
    recipe.widened = tuple(
        f"{key} {form}, its error in 8 bits is {seen[key].narrow:.2f}"
        for key, form in recipe.forms.items()
        if form != usual[key]
    )
    return recipe


def _channels(graph: Graph, key: str) -> int:
    shape = graph.get_parameter(key).shape
    return shape[0] if len(shape) <= 2 else shape[-1]


def _usual(key: str) -> Form:
    """The image Q-former would have most of the error of the whole, and has a twentieth of the work."""
    return "wide" if key.startswith("Qformer.") else "narrow"


def _form(usual: Form, seen: Seen) -> Form:
    if seen.wide > _WIDE_LIMIT:
        return "float"
    return "wide" if seen.narrow > _NARROW_LIMIT else usual
