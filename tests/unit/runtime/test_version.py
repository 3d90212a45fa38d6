from __future__ import annotations

import importlib.metadata

import pytest

from vllama.runtime.version import own_version


def test_a_checkout_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_version() == importlib.metadata.version("vllama")

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert own_version() == "unknown"
