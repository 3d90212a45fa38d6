from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from vllama.export.mini.__main__ import main


@pytest.mark.parametrize(
    ("command", "missing", "stage"),
    [
        (["judge"], "image/image.pt: not there yet", "image"),
        (["write", "--out", "weights"], "llama/hf: no language model yet", "language"),
        (["train", "--stage", "video-text"], "image/image.pt: not there yet", "image"),
        (["train", "--stage", "polish"], "llama/hf: no language model yet", "language"),
    ],
)
def test_a_command_that_needs_an_earlier_stage_names_it(
    command: list[str], missing: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mini", *command])
    for setting in ("set_num_threads", "set_flush_denormal"):  # of the whole process
        monkeypatch.setattr(torch, setting, lambda value: None)
    with pytest.raises(SystemExit) as ended:
        main()
    said = f"python -m vllama.export.mini: {Path('miniature-work') / missing}; run the stage `{stage}` first"
    assert ended.value.code == said
    assert not list(tmp_path.iterdir())
