from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import vllama.runtime
from vllama.runtime.bundle import shipped_bundle
from vllama.runtime.manifest import hash_file, read_manifest


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_runtime_and_cli_leave_torch_out() -> None:
    assert _python("import sys, vllama.runtime, vllama.cli.app; print('torch' in sys.modules)") == "False"


def test_registry_is_installed_beside_the_houses() -> None:
    assert int(_python("from vllama.runtime.registry import read_specs; print(len(read_specs()))")) > 0


def test_public_names_are_sorted_and_all_there() -> None:
    names = vllama.runtime.__all__
    assert names == sorted(names)
    assert all(hasattr(vllama.runtime, name) for name in names)


def test_shipped_bundle_was_made_from_the_weights_in_the_repository() -> None:
    weights = Path(__file__).parents[2] / "export" / "mini" / "weights"
    sources = read_manifest(shipped_bundle()).sources
    assert {path.relative_to(weights).as_posix() for path in weights.rglob("*") if path.is_file()} == set(sources)
    for name, record in sources.items():
        assert hash_file(weights / name) == record
