"""Published checkpoints -> a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama.runtime import environment as environment

if TYPE_CHECKING:
    from .pipeline import export_model as export_model

__all__ = ["export_model"]


def __getattr__(name: str) -> object:
    """`export_model` when it is asked for: it loads torch, which the world of the miniature does without."""
    if name == "export_model":
        from .pipeline import export_model

        return export_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
