"""Published checkpoints -> a bundle."""

from __future__ import annotations

from vllama.runtime import environment as environment

from .export import export_model as export_model

__all__ = ["export_model"]
