"""OpenMP's library prints what it was told when it is loaded, and each copy of it does.

GNU's calls a policy that nobody set passive, too; how often its threads look before they sleep tells the difference.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ALL = "import numpy, onnxruntime, llama_cpp.llama_cpp, torch"
HOUSES = (
    "vllama.runtime",
    "vllama.runtime.llm.backbone",
    "vllama.runtime.errors",
    "vllama.cli.app",
    "vllama.export",
    "vllama.export.pipeline",
)


def said(code: str, **more: str) -> list[str]:
    """How often the threads of each copy of OpenMP look before they sleep."""
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=300,
        env={**env, "OMP_DISPLAY_ENV": "verbose", **more},
    )  # fmt: skip
    return [line.split("=")[1].strip(" '") for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]


@pytest.mark.skipif(sys.platform != "linux", reason="asks GNU's OpenMP")
@pytest.mark.parametrize("house", HOUSES)
def test_threads_wait_passively_however_a_house_is_entered(house: str) -> None:
    counts = said(f"import {house}\n{ALL}")
    assert len(counts) >= 1
    assert set(counts) == {"0"}


@pytest.mark.skipif(sys.platform != "linux", reason="asks GNU's OpenMP")
def test_what_a_person_set_stays() -> None:
    (count,) = said("import vllama.runtime\nimport llama_cpp.llama_cpp", OMP_WAIT_POLICY="active")
    assert int(count) > 0
