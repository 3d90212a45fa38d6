from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vllama.export.request import Request
from vllama.export.to_tensorrt import EngineOptions
from vllama.runtime.errors import MissingFileError
from vllama.runtime.registry import find_spec


def test_encoders_are_for_cpus_unless_engines_are_asked_for(tmp_path: Path) -> None:
    request = Request(find_spec("miniature"), tmp_path, tmp_path / "out", None, None, None, None)
    assert (request.encoder_type, replace(request, engines=EngineOptions()).encoder_type) == ("int8", "fp16")


def test_engines_are_added_without_the_published_files(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()
    request = Request(find_spec("miniature"), tmp_path / "none", tmp_path, None, None, EngineOptions(), None)
    request.check()
    with pytest.raises(MissingFileError, match="none: not a folder"):
        replace(request, engines=None).check()
