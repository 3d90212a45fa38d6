from __future__ import annotations

import os
from pathlib import Path

import pytest

from vllama.export import export_model
from vllama.export.staging import alone
from vllama.runtime.errors import FileError
from vllama.runtime.registry import find_spec


def test_a_place_that_another_process_exports_to_is_not_said_to_be_in_the_way(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (
        alone(out),
        pytest.raises(FileError, match=rf"out: process {os.getpid()} exports to it; wait for that, or choose another"),
    ):
        export_model(find_spec("miniature"), tmp_path, out)
    with pytest.raises(FileError, match="out: already there; remove it or choose another --out"):
        export_model(find_spec("miniature"), tmp_path, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
