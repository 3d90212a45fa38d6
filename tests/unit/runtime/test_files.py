from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllama.runtime import files
from vllama.runtime.files import is_disk_full, replace_file, write_whole


def test_writing_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"new"
        raise KeyboardInterrupt

    path = tmp_path / "a"
    write_whole(path, [b"old"])
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, blocks())
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_file_that_cannot_be_removed_does_not_hide_why_it_was_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "in use", str(path))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(OSError, match="full") as raised:
        write_whole(tmp_path / "a", [b"new"])
    assert is_disk_full(raised.value)


@pytest.mark.parametrize(("is_windows", "busy", "tries"), [(True, 2, 3), (True, 99, 4), (False, 1, 1)])
def test_file_that_is_open_just_now_is_waited_for_on_windows_alone(
    is_windows: bool, busy: int, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.replace, 0

    def replace(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls <= busy:
            raise PermissionError(errno.EACCES, "in use", str(source))
        real(source, target)

    monkeypatch.setattr(files, "_WINDOWS", is_windows)
    clock = iter(range(99))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) / 2)  # half a second a look
    monkeypatch.setattr(files, "_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "new").write_bytes(b"new")
    try:
        replace_file(tmp_path / "new", tmp_path / "old")
    except PermissionError:
        assert busy >= tries
    else:
        assert (tmp_path / "old").read_bytes() == b"new"
    assert calls == tries


def test_no_space_and_no_quota_are_a_full_disk() -> None:
    assert is_disk_full(OSError(errno.ENOSPC, ""))
    assert is_disk_full(OSError(errno.EDQUOT, ""))
    assert not is_disk_full(OSError(errno.EACCES, ""))


def test_folder_that_cannot_be_synced_costs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    write_whole(tmp_path / "a", [b"new"])
    assert (tmp_path / "a").read_bytes() == b"new"
