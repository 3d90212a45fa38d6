from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import needs_links
from vllama.export.staging import StagedPart, Staging, alone, part_key, record_files, writing
from vllama.runtime.errors import DiskFullError, FileError
from vllama.runtime.manifest import SCHEMA, FidelityRow, Manifest, hash_file

ROW = FidelityRow("frames", "fp32", max_abs=0.5, cosine=1.0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "out"


def maker(staging: Staging, name: str, content: bytes = b"weights") -> Callable[[], StagedPart]:
    def make() -> StagedPart:
        (staging.folder / name).write_bytes(content)
        return StagedPart(record_files(staging.folder, (name, "never written")), (ROW,), widened=("t",))

    return make


def never() -> StagedPart:
    raise AssertionError("made again")


def manifest(files: tuple[str, ...], folder: Path) -> Manifest:
    records = {name: hash_file(folder / name) for name in files}
    return Manifest(SCHEMA, "m", "free", {}, files[0], {}, records, {"frames": "fp32", "llm": "F32"}, {}, ())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_finished_part_is_found_by_the_next_try(out: Path) -> None:
    first = Staging(out)
    made = first.make("frames", "key", maker(first, "frames.onnx"))
    assert made == StagedPart({"frames.onnx": hash_file(first.folder / "frames.onnx")}, (ROW,), ("t",), "key")
    assert Staging(out).make("frames", "key", never) == made
    assert not out.exists()


@pytest.mark.parametrize("change", ["key", "damaged", "cut", "gone"])
def test_part_is_made_again_when_it_is_not_what_was_finished(change: str, out: Path) -> None:
    first = Staging(out)
    first.make("frames", "key", maker(first, "frames.onnx"))
    first.make("video", "key", maker(first, "video.onnx"))
    path = first.folder / "frames.onnx"
    if change == "damaged":
        path.write_bytes(b"WEIGHTS")
    elif change == "cut":
        os.truncate(path, 3)
    elif change == "gone":
        path.unlink()
    again = Staging(out)
    again.make("frames", "other" if change == "key" else "key", maker(again, "frames.onnx", b"new"))
    assert path.read_bytes() == b"new"
    again.make("video", "key", never)


@pytest.mark.parametrize("journal", [b"", b'{"frames": {"fi', b"[]", b'{"frames": {"files": 3}}', None])
def test_spoilt_journal_means_nothing_is_finished(journal: bytes | None, out: Path) -> None:
    first = Staging(out)
    first.make("frames", "key", maker(first, "frames.onnx"))
    path = first.folder / "journal.json"
    path.unlink() if journal is None else path.write_bytes(journal)
    again = Staging(out)
    assert again.parts == {}
    again.make("frames", "key", maker(again, "frames.onnx", b"new"))
    assert (again.folder / "frames.onnx").read_bytes() == b"new"


def test_what_a_kill_left_half_written_is_swept_and_finished_parts_stay(out: Path) -> None:
    first = Staging(out)
    first.make("frames", "key", maker(first, "frames.onnx"))
    for name in ("clips.onnx.data", "journal.json.part", "manifest.json.part"):
        (first.folder / name).write_bytes(b"half")
    (first.folder / "pieces").mkdir()
    (first.folder / "pieces" / "clips.onnx").write_bytes(b"half")
    assert names(Staging(out).folder) == {"journal.json", "frames.onnx"}


def test_what_a_part_was_gives_its_room_back_before_it_is_made_again(out: Path) -> None:
    staging = Staging(out)
    staging.make("frames", "key", maker(staging, "frames.onnx"))

    def make() -> StagedPart:
        assert "frames.onnx" not in names(staging.folder)
        return maker(staging, "frames.onnx.data")()

    staging.make("frames", "other", make)
    assert names(staging.folder) == {"journal.json", "frames.onnx.data"}


def test_part_that_could_not_be_recorded_is_not_finished(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = Staging(out)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="frames: no space left"):
        staging.make("frames", "key", maker(staging, "frames.onnx"))
    assert (staging.parts, names(staging.folder)) == ({}, set())
    staging.discard_if_empty()
    assert not staging.folder.exists()


@pytest.mark.parametrize("before", [False, True], ids=["first time", "made again"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("broken")])
def test_part_that_fails_leaves_no_file_and_keeps_the_others(error: BaseException, before: bool, out: Path) -> None:
    staging = Staging(out)
    staging.make("frames", "key", maker(staging, "frames.onnx"))
    if before:
        staging.make("clips", "key", maker(staging, "clips.onnx"))

    def fail() -> StagedPart:
        (staging.folder / "clips.onnx").write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        staging.make("clips", "other", fail)
    assert names(staging.folder) == {"journal.json", "frames.onnx"}
    again = Staging(out)
    again.make("frames", "key", never)
    again.make("clips", "key", maker(again, "clips.onnx", b"whole"))
    assert (again.folder / "clips.onnx").read_bytes() == b"whole"


def test_full_disk_is_our_error_and_says_what_to_do(out: Path) -> None:
    staging = Staging(out)

    def fill() -> StagedPart:
        (staging.folder / "frames.onnx").write_bytes(b"half")
        full = Path("/dev/full")
        if not full.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        full.write_bytes(b"x" * 8192)
        raise AssertionError("the disk was not full")

    with pytest.raises(DiskFullError, match=r"^frames: no space left in .*deep; free some and run the same command"):
        staging.make("frames", "key", fill)
    assert names(staging.folder) == set()
    staging.discard_if_empty()
    assert not staging.folder.exists()


def test_other_errors_of_the_disk_name_the_file_and_say_what_to_do(out: Path) -> None:
    said = pytest.raises(FileError, match=r"^a\.onnx: in use; close what uses it, check .* and run the same command")
    with said, writing("frames", out.parent):
        raise PermissionError(errno.EACCES, "in use", "a.onnx")
    with pytest.raises(BrokenPipeError), writing("frames", out.parent):
        raise BrokenPipeError(errno.EPIPE, "the reader of the progress is gone")


def test_file_that_cannot_be_removed_does_not_hide_what_failed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = Staging(out)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "in use", str(path))

    def fail() -> StagedPart:
        (staging.folder / "clips.onnx").write_bytes(b"half")
        monkeypatch.setattr(Path, "unlink", refuse)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        staging.make("clips", "key", fail)
    with pytest.raises(FileError, match=r"clips\.onnx: in use; close what uses it"):
        Staging(out)


def test_journal_that_cannot_be_read_now_costs_no_finished_part(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Staging(out)
    first.make("frames", "key", maker(first, "frames.onnx"))

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "in use", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(FileError, match=r"journal\.json: in use; close what uses it"):
            Staging(out)
    Staging(out).make("frames", "key", never)


def test_need_counts_what_is_free_and_what_is_finished(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = Staging(out)
    staging.make("frames", "key", maker(staging, "frames.onnx", b"x" * 600))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 400})())
    staging.need(1000)
    with pytest.raises(DiskFullError, match=r"GB free, the export needs about .* GB; free some or choose"):
        staging.need(1001)


def test_folder_with_finished_parts_is_not_discarded(out: Path) -> None:
    staging = Staging(out)
    staging.make("frames", "key", maker(staging, "frames.onnx"))
    staging.discard_if_empty()
    assert (staging.folder / "frames.onnx").exists()


def test_committed_bundle_holds_its_files_and_nothing_else(out: Path) -> None:
    staging = Staging(out)
    staging.make("frames", "key", maker(staging, "frames.onnx"))
    staging.make("llm F32", "key", maker(staging, "llm-F32.gguf"))
    staging.commit(manifest(("frames.onnx",), staging.folder))
    assert names(out) == {"manifest.json", "frames.onnx"}
    assert json.loads((out / "manifest.json").read_text())["model"] == "m"
    assert names(out.parent) == {"out"}


def test_manifest_that_cannot_be_written_leaves_no_half_of_it(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = Staging(out)
    staging.make("frames", "key", maker(staging, "frames.onnx"))

    def full(folder: Path, manifest: Manifest) -> None:
        (folder / "manifest.json.part").write_bytes(b"{")
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("vllama.export.staging.write_manifest", full)
    with pytest.raises(DiskFullError, match=r"^manifest\.json: no space left"):
        staging.commit(manifest(("frames.onnx",), staging.folder))
    assert names(staging.folder) == {"journal.json", "frames.onnx"}


def test_existing_place_is_refused_at_the_start_and_at_the_end(out: Path) -> None:
    staging = Staging(out)
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(FileError, match=r"already there; remove it or choose another --out"):
        Staging(out)
    staging.make("frames", "key", maker(staging, "frames.onnx"))
    with pytest.raises(FileError, match=r"out: .*; remove it and run the same command"):
        staging.commit(manifest(("frames.onnx",), staging.folder))
    assert names(out) == {"mine"}
    (out / "mine").unlink()
    out.rmdir()
    Staging(out).make("frames", "key", never)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_crash_while_becoming_the_bundle_costs_no_finished_part(
    moment: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = Staging(out)
    staging.make("frames", "key", maker(staging, "frames.onnx"))

    def crash(source: Path, target: Path) -> None:
        if moment == "after":
            os.replace(source, target)
        raise KeyboardInterrupt

    monkeypatch.setattr("vllama.export.staging.replace_file", crash)
    with pytest.raises(KeyboardInterrupt):
        staging.commit(manifest(("frames.onnx",), staging.folder))
    if moment == "before":
        Staging(out).make("frames", "key", never)
        assert names(out.parent) == {"out.partial"}
        return
    (out / "frames.engine.7.part").touch()
    with alone(out):
        assert names(out) == {"manifest.json", "frames.onnx"}


def test_folder_that_is_no_bundle_is_left_as_it_is(out: Path) -> None:
    out.mkdir(parents=True)
    theirs = {"manifest.json": '{"name": "an app"}', "journal.json": "a diary", "film.mp4.1.part": "half a film"}
    for name, text in theirs.items():
        (out / name).write_text(text, "utf-8")
    with alone(out), pytest.raises(FileError, match="already there; remove it or choose another --out"):
        Staging(out)
    assert {path.name: path.read_text("utf-8") for path in out.iterdir()} == theirs


def test_folder_in_use_is_not_called_one_in_the_way(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = Staging(out)
    staging.make("frames", "key", maker(staging, "frames.onnx"))

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, "Access is denied")

    with monkeypatch.context() as patch:
        patch.setattr("vllama.export.staging.replace_file", refuse)
        with pytest.raises(FileError, match=r"out: Access is denied; close what uses .*out\.partial and run the same"):
            staging.commit(manifest(("frames.onnx",), staging.folder))
    again = Staging(out)
    again.make("frames", "key", never)
    again.commit(manifest(("frames.onnx",), again.folder))
    assert names(out) == {"manifest.json", "frames.onnx"}


def test_one_exports_to_a_place_at_a_time(out: Path) -> None:
    with alone(out):
        with (
            pytest.raises(FileError, match=rf"out: process {os.getpid()} exports to it; wait for that"),
            alone(out),
        ):
            raise AssertionError("two at once")
        with alone(out.with_name("other")):
            assert names(out.parent) == {"out.lock", "other.lock"}
    with alone(out):
        pass
    assert names(out.parent) == set()


def test_where_what_is_open_cannot_be_removed_the_lock_is_once_it_is_let_go(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllama.runtime.lock._WINDOWS", True)
    with alone(out):
        assert names(out.parent) == {"out.lock"}
    assert names(out.parent) == set()


def test_folder_one_is_in_is_a_place_like_any_other(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out.mkdir(parents=True)
    monkeypatch.chdir(out)
    with alone(Path(".")):
        assert names(out.parent) == {"out", "out.lock"}
        with pytest.raises(FileError, match=r"^\.: already there; remove it or choose another --out"):
            Staging(Path("."))
    with pytest.raises(FileError, match="the root of a disk cannot be a bundle"), alone(Path(out.anchor)):
        raise AssertionError("made")


def test_place_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as system:
        (tmp_path / "file" / "folder").mkdir(parents=True)  # Windows has words of its own
    with pytest.raises(
        FileError, match=rf"out\.partial: {re.escape(str(system.value.strerror))}; choose another --out"
    ):
        Staging(tmp_path / "file" / "out")
    with pytest.raises(FileError, match="choose another --out"), alone(tmp_path / "file" / "deep" / "out"):
        raise AssertionError("made")


def test_key_depends_on_every_fact_and_not_on_the_order_of_a_table() -> None:
    assert part_key({"a": 1, "b": 2}, "fp32") == part_key({"b": 2, "a": 1}, "fp32")
    keys = [part_key(*facts) for facts in (({"a": 1}, "fp32"), ({"a": 2}, "fp32"), ({"a": 1}, "fp16"), ({"a": 1},))]
    assert len(set(keys)) == 4


@needs_links
def test_link_that_leads_nowhere_is_in_the_way(out: Path) -> None:
    out.parent.mkdir()
    out.symlink_to("nowhere")
    with pytest.raises(FileError, match="already there; remove it or choose another --out"):
        Staging(out)
