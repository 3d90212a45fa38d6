from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def record(vllama: Callable, clip: Path, tmp_path: Path) -> Path:
    path = tmp_path / "record.jsonl"
    done = vllama("ask", clip, "What?", "-m", "miniature", "-n", 2, "--device", "cpu", "--record", path)
    assert done.returncode == 0, done.stderr
    return path


def head(record: Path) -> dict[str, object]:
    first: dict[str, object] = json.loads(record.read_text("utf-8").splitlines()[0])
    return first


def with_head(record: Path, **changes: object) -> Path:
    _, *rows = record.read_text("utf-8").splitlines()
    changed = {name: value for name, value in {**head(record), **changes}.items() if value is not None}
    record.write_text("\n".join([json.dumps(changed), *rows]), "utf-8")
    return record


def test_replay_runs_where_the_record_ran(vllama: Callable, record: Path) -> None:
    assert (head(record)["device"], head(record)["runner"]) == ("cpu", "onnx")
    here = vllama("replay", record)
    assert (here.returncode, "same: 2 tokens" in here.stderr) == (0, True), here.stderr
    elsewhere = vllama("replay", with_head(record, device="cuda:99"))
    assert (elsewhere.returncode, elsewhere.stdout) == (5, ""), "on the CPU other tokens might come out"
    assert elsewhere.stderr.count("\n") == 1
    old = vllama("replay", with_head(record, device=None, runner=None))
    assert (old.returncode, "same: 2 tokens" in old.stderr) == (0, True), old.stderr
