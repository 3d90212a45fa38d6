"""The version of vllama."""

from __future__ import annotations


def own_version() -> str:
    """Of this vllama; "unknown" where it runs from its checkout and is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # slow to load

    try:
        return version("vllama")
    except PackageNotFoundError:
        return "unknown"
