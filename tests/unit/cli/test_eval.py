"""Where the clips of `vllama eval --set mini` are."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllama.cli.eval import _asked, _questions, _Run
from vllama.export import mini
from vllama.export.mini import held_out
from vllama.runtime import BackendUnavailableError, MediaError, SpecError
from vllama.runtime.ablation import ABLATIONS
from vllama.runtime.question_set import KnownAnswer
from vllama.runtime.registry import find_spec


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


def test_a_number_of_clips_is_of_the_drawn_sets_alone() -> None:
    words = "^--clips is of the sets that are drawn, and mine.jsonl is a file; leave it out$"
    with pytest.raises(SpecError, match=words), _questions("mine.jsonl", 7):
        raise AssertionError


def test_a_drawn_set_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mini, "held_out")
    monkeypatch.setitem(sys.modules, "vllama.export.mini.held_out", None)
    install = re.escape('; install the extra `export` (`pip install ".[export]"` in vllama\'s checkout)')
    with (
        pytest.raises(BackendUnavailableError, match=f"^--set mini draws its clips with torch .*{install}$"),
        _questions("mini", 2),
    ):
        raise AssertionError


def test_drawn_clips_have_a_cache_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_set(folder: Path, clips: int, step: object) -> Path:
        (folder / "1.mp4").touch()
        (folder / "set.jsonl").write_text(json.dumps({"video": "1.mp4", "question": "q", "answer": "a"}), "utf-8")
        return folder / "set.jsonl"

    monkeypatch.setattr(held_out, "write_set", write_set)
    monkeypatch.setenv("VLLAMA_CACHE", "mine")
    with _questions("mini", 2) as (question,):
        assert os.environ["VLLAMA_CACHE"] == str(question.video.parent)


@pytest.mark.parametrize("videos", ["abc", "aba"])
def test_other_sound_is_that_of_another_clip(videos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = list[tuple[object, object]]()
    engine: Any = SimpleNamespace(spec=find_spec("miniature"), index=lambda video, fps: video.name)
    monkeypatch.setattr(_Run, "ask", lambda run, group, condition, timeline: None)
    monkeypatch.setitem(ABLATIONS, "other sound", lambda own, other, count, rng: pairs.append((own, other)))
    asked = [KnownAnswer(Path(name), "q", "a", "k", frozenset(), frozenset()) for name in videos]
    _asked(engine, asked, ["other sound"], None)
    assert len(pairs) == 3
    assert all(own != other for own, other in pairs), pairs
