"""What `.dev/run.py` installs for what is asked of it."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delenv("VLLAMA_ENGINE", raising=False)
    spec = importlib.util.spec_from_file_location("dev_run", _ROOT / ".dev" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "wants"),
    [
        ("export m --engine tensorrt", True),
        ("ask clip.mp4 What? --engine=tensorrt", True),
        ("ask clip.mp4 tensorrt", False),
        ("ask clip.mp4 tensorrt --engine onnx", False),
        ("ask clip.mp4 --engine", False),
    ],
)
def test_tensorrt_is_installed_where_it_is_asked_for(line: str, wants: bool, run: ModuleType) -> None:
    assert run.wants_tensorrt(line.split()) is wants


def test_tensorrt_is_installed_where_the_environment_asks_for_it(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLAMA_ENGINE", "tensorrt")
    assert run.wants_tensorrt(["ask", "clip.mp4", "What?"])


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("darwin", "x86_64"), ("linux", "aarch64")])
def test_systems_that_have_no_tensorrt_get_nothing_of_it(system: str, machine: str) -> None:
    """The tests are installed with the extra `rtx` everywhere."""
    table = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))
    extra = [Requirement(text) for text in table["project"]["optional-dependencies"]["rtx"]]
    where = {"sys_platform": system, "platform_machine": machine}
    assert [each.name for each in extra if not each.marker or each.marker.evaluate(where)] == ["onnxruntime"]
