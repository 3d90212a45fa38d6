"""Patterns of file names, which the shells of Windows leave to programs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vllama.cli.index import _clips


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a[1].mp4", "b[1].mp4", "c.mp4", "a1.mp4"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("*[1].mp4", ["a[1].mp4", "b[1].mp4"]),
        ("?.mp4", ["c.mp4"]),
        ("a[1].mp4", ["a[1].mp4"]),
        ("*.png", ["*.png"]),
    ],
)
def test_a_pattern_is_the_files_that_it_fits_on_windows(
    folder: Path, pattern: str, named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        clips, problems = _clips([folder / pattern])
    assert ([clip.name for clip in clips], problems) == (named, [])


def test_a_pattern_is_a_name_where_shells_expand_it(folder: Path) -> None:
    assert _clips([folder / "*.mp4"]) == ([folder / "*.mp4"], [])
