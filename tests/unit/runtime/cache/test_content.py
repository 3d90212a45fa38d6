from __future__ import annotations

import os
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from tests.conftest import needs_links
from vllama.runtime.cache import content as contents
from vllama.runtime.cache.catalogue import find_entries
from vllama.runtime.cache.content import Content, identify, is_unchanged, recall, remember
from vllama.runtime.errors import MediaError, SpecError
from vllama.runtime.manifest import FileRecord, hash_file

_TICK = 100 if sys.platform == "win32" else 1  # ns: the finest step that the system keeps


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"one")
    os.utime(path, ns=(10**18, 10**18))
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []

    def hash_it(path: Path) -> FileRecord:
        seen.append(path)
        return hash_file(path)

    monkeypatch.setattr(contents, "hash_file", hash_it)
    return seen


def known(path: Path) -> Content:
    """Its content, which is remembered."""
    content = identify(path)
    remember(content)
    return content


def test_file_is_hashed_once(file: Path, hashed: list[Path]) -> None:
    assert known(file).sha256 == known(file).sha256 == recall(file) == sha256(b"one").hexdigest()
    assert hashed == [file]


def test_changed_file_is_hashed_again(file: Path, hashed: list[Path]) -> None:
    known(file)
    file.write_bytes(b"two")
    os.utime(file, ns=(10**18 + _TICK, 10**18 + _TICK))
    assert known(file).sha256 == sha256(b"two").hexdigest()
    file.write_bytes(b"three")
    os.utime(file, ns=(10**18 + _TICK, 10**18 + _TICK))
    assert identify(file).sha256 == sha256(b"three").hexdigest()
    assert len(hashed) == 3


def test_file_that_was_changed_just_now_is_not_trusted(file: Path, hashed: list[Path]) -> None:
    os.utime(file)
    known(file)
    known(file)
    assert len(hashed) == 2


def test_damaged_memory_costs_a_hash(file: Path, hashed: list[Path], tmp_path: Path) -> None:
    known(file)
    (memory,) = (tmp_path / "cache" / "contents").iterdir()
    memory.write_text("{")
    assert identify(file).sha256 == sha256(b"one").hexdigest()
    assert len(hashed) == 2


def test_what_is_only_looked_for_is_not_written_down(file: Path, tmp_path: Path) -> None:
    assert identify(file).sha256 == sha256(b"one").hexdigest()
    with pytest.raises(SpecError, match="no timeline"):
        find_entries(str(file))
    assert not (tmp_path / "cache").exists()


def test_change_while_it_is_used_is_noticed(file: Path) -> None:
    content = identify(file)
    content.check()
    os.utime(file, ns=(10**18, 10**18 + _TICK))
    with pytest.raises(MediaError, match="was changed while it was read"):
        content.check()
    assert is_unchanged(file, 3, 10**18) is False
    file.unlink()
    assert is_unchanged(file, 3, 10**18) is None


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "give a file of it"), (tmp_path / "none.mp4", "give a video")):
        with pytest.raises(MediaError, match=said):
            identify(path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("https://youtu.be/abc?t=1", "https://youtu.be/abc?t=1: is an address; download it first, or "),
        ("RTSP://camera/1", "RTSP://camera/1: is an address; "),
        ("-", "-: stdin cannot be a clip"),
        ("folder", "folder: is a folder; give a file of it, or encode all in it with `vllama index FOLDER`"),
        ("C:/films/none.mp4", f"{Path('C:/films/none.mp4')}: No such file or directory; give a video"),
    ],
)
def test_what_people_give_in_place_of_a_file_is_called_by_its_name(
    given: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MediaError) as error:
        identify(Path(given))
    assert str(error.value).startswith(said)


def test_file_whose_name_looks_like_something_else_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-").write_bytes(b"one")
    assert identify(Path("-")).sha256 == sha256(b"one").hexdigest()


@pytest.mark.parametrize("name", [pytest.param("loop", marks=needs_links), "a\0b"])
def test_name_that_can_be_none_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "loop":
        path.symlink_to(name)
    with pytest.raises(MediaError, match="give a video"):
        identify(path)
    assert is_unchanged(path, 0, 0) is None


@needs_links
def test_link_to_itself_was_never_hashed(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert recall(tmp_path / "loop") is None


def test_memory_that_cannot_be_written_leaves_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert known(file).bytes == 3
    assert list((tmp_path / "cache" / "contents").iterdir()) == []
