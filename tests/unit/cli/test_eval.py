"""Where the clips of `vllama eval --set mini` are."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from pathlib import Path

import pytest

from vllama.cli.eval import _questions
from vllama.export.mini import held_out
from vllama.runtime import MediaError


def test_files_that_cannot_be_deleted_do_not_hide_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where a file that is mapped is not."""

    def write_set(folder: Path, clips: int, step: object) -> Path:
        (folder / "1.mp4").touch()
        (folder / "set.jsonl").write_text(json.dumps({"video": "1.mp4", "question": "q", "answer": "a"}), "utf-8")
        return folder / "set.jsonl"

    def refuse(*path: object, **how: object) -> None:
        raise OSError(errno.EBUSY, "in use")

    def fail_midway(patch: pytest.MonkeyPatch) -> None:
        with _questions("mini", 2):
            patch.setattr(os, "unlink", refuse)
            raise MediaError("the real one")

    monkeypatch.setattr(held_out, "write_set", write_set)
    monkeypatch.setenv("VLLAMA_CACHE", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with monkeypatch.context() as patch, pytest.raises(MediaError, match="the real one"):
        fail_midway(patch)
