from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Vllama
from vllama.cli.newfile import JsonLines
from vllama.cli.record import Clear, Recorder, Row, There, _came, _there, read_record
from vllama.runtime import DiskFullError, FileError, Span, Timeline
from vllama.runtime.timeline import FrameFeature

HEAD: dict[str, object] = {
    "schema": 4, "vllama": "0", "model": "m", "model_files": {"a": "b"}, "clip": "c.mp4", "content": "d",
    "audio": True, "fps": 1.0, "kv": "f16", "n_ctx": 512, "gpu_layers": 0, "device": "cpu", "runner": "onnx",
    "there": {"frames": [0, 2], "copies": [[2, 0]], "clips": [0.5], "remembered": None},
}  # fmt: skip
ROW: dict[str, Any] = {
    "question": "What?", "came": None, "span": [2.0, None], "asked_long": None, "long": "frames",
    "frame_times": [0.0], "audio_spans": [[0.0, 2.0]], "prompt": [1, "aa:0"],
    "sampling": {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_tokens": 8, "repetition_penalty": 1.0},
    "seed": 5, "token_ids": [1, 2], "answer": "This.",
}  # fmt: skip


def write(folder: Path, *rows: object) -> Path:
    path = folder / "record.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "utf-8")
    return path


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    head, rows = read_record(write(tmp_path, HEAD, ROW, {"clear": True}, {**ROW, "span": None}))
    assert (head.model, head.there.copies) == ("m", ((2, 0),))
    first, second, third = rows
    assert isinstance(first, Row)
    assert isinstance(third, Row)
    assert second == Clear(True)
    assert (first.where, third.where) == (Span(2.0, float("inf")), Span.whole())


@pytest.mark.parametrize(
    ("field", "value"),
    [("fps", None), ("fps", 1e9), ("fps", "a"), ("fps", -1), ("fps", float("nan")), ("kv", "q4"), ("clip", 3),
     ("n_ctx", 0), ("n_ctx", 2**40), ("n_ctx", 512.5), ("gpu_layers", -1), ("gpu_layers", "all"),
     ("device", 3), ("model", [1]), ("model_files", []), ("audio", 1), ("there", {}), ("there", None), ("more", 1)],
)  # fmt: skip
def test_a_head_that_was_edited_is_named_by_line_and_field(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(FileError, match=rf"record\.jsonl, line 1: {field}.*; ask again with --record") as said:
        read_record(write(tmp_path, {**HEAD, field: value}, ROW))
    assert "\n" not in str(said.value)
    rest = {name: part for name, part in HEAD.items() if name != field}
    if field not in ("model_files", "more"):
        with pytest.raises(FileError, match=f"line 1: {field}: "):
            read_record(write(tmp_path, rest, ROW))


@pytest.mark.parametrize(
    ("field", "value"),
    [("question", 1), ("question", " "), ("span", [1]), ("span", "ab"), ("span", [2.0, 1.0]), ("seed", 1.5),
     ("span", [-5.0, 1.0]), ("span", [2.0, float("inf")]), ("sampling", {"foo": 1}),
     ("sampling", {**ROW["sampling"], "temperature": -3}), ("sampling", {**ROW["sampling"], "max_tokens": 0}),
     ("sampling", {**ROW["sampling"], "temperature": float("inf")}), ("sampling", {**ROW["sampling"], "top_k": 2**31}),
     ("seed", -1), ("seed", 2**32 - 1), ("token_ids", 5), ("token_ids", ["a"]), ("long", "bogus"), ("came", 1)],
)  # fmt: skip
def test_a_row_that_was_edited_is_named_by_line_and_field(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(FileError, match=rf"record\.jsonl, line 3: {field}.*; ask again with --record") as said:
        read_record(write(tmp_path, HEAD, ROW, {**ROW, field: value}))
    assert "\n" not in str(said.value)
    rest = {name: part for name, part in ROW.items() if name != field}
    with pytest.raises(FileError, match=f"line 3: {field}: "):
        read_record(write(tmp_path, HEAD, ROW, rest))


@pytest.mark.parametrize(
    "row", ["5", "{", "[" * 10_000, '{"question": "\\udcff"}', {"clear": False}, {"clear": True, "a": 1}]
)
def test_a_line_that_is_no_row_is_named_by_its_number(tmp_path: Path, row: object) -> None:
    with pytest.raises(FileError, match="line 3: ") as said:
        read_record(write(tmp_path, HEAD, ROW, row))
    assert "\n" not in str(said.value)


def test_what_is_no_record_of_this_version_says_what_to_do(tmp_path: Path) -> None:
    old = {name: value for name, value in HEAD.items() if name not in ("schema", "there")}
    with pytest.raises(FileError, match=r"schema is 1, this vllama reads 4; ask again with --record, or .* vllama 0$"):
        read_record(write(tmp_path, old, ROW))
    with pytest.raises(FileError, match="schema is 2"):
        read_record(write(tmp_path, {**HEAD, "schema": 2}, ROW))
    with pytest.raises(FileError, match="give a file that --record wrote"):
        read_record(write(tmp_path, ROW))
    with pytest.raises(FileError, match="is empty"):
        read_record(write(tmp_path, ""))
    with pytest.raises(FileError, match="holds no question; ask again"):
        read_record(write(tmp_path, HEAD, {"clear": True}))
    with pytest.raises(FileError, match="No such file"):
        read_record(tmp_path / "none.jsonl")


def test_what_came_is_what_is_new_or_has_other_features() -> None:
    known = There(frames=(0, 2, 4, 6), copies=((2, 0), (6, 4)), clips=(0.5,), remembered=None)
    assert _came(known, known) is None
    there = There(frames=(0, 2, 4, 6, 8), copies=((6, 0), (8, 4)), clips=(0.5, 1.5), remembered="a")
    assert _came(there, known) == There(frames=(2, 6, 8), copies=((6, 0), (8, 4)), clips=(1.5,), remembered="a")
    assert _came(replace(known, remembered="a"), known) == There((), (), (), "a")


def test_a_picture_that_is_another_one_to_the_bit_is_no_copy() -> None:
    timeline = Timeline("m", "c", "video", 3, 3.0, 1.0, sound=False)
    features = np.zeros((2, 3), np.float32)
    for index, equal in ((0, True), (1, True), (2, False)):
        timeline.add_frame(FrameFeature(index, float(index), features, of=0 if index else None, equal=equal))
    assert _there(timeline) == There(frames=(0, 1, 2), copies=((2, 0),), clips=(), remembered=None)


def test_a_record_that_lacks_a_line_has_none_after_it(tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    lines = JsonLines(path)
    recorder = Recorder(lines, None, path, None, audio=False)  # type: ignore[arg-type]
    recorder.clear()
    assert not path.exists(), "nothing was said that could be forgotten"
    recorder._known = There((), (), (), None)
    recorder.clear()
    written = path.rename(tmp_path / "moved.jsonl")
    with pytest.raises(FileError, match="No such file"):
        recorder.clear()
    written.rename(path)
    recorder.clear()
    assert path.read_bytes() == b'{"clear": true}\n'


def test_a_file_that_is_there_is_not_touched_and_none_is_made_before_its_first_line(tmp_path: Path) -> None:
    there = tmp_path / "there.jsonl"
    there.write_bytes(b"mine")
    with pytest.raises(FileError, match="is there already"):
        JsonLines(there)
    assert there.read_bytes() == b"mine"
    lines = JsonLines(tmp_path / "new.jsonl")
    assert not (tmp_path / "new.jsonl").exists()
    (tmp_path / "new.jsonl").write_bytes(b"of somebody else")
    with pytest.raises(FileError, match="is there already"):
        lines.append({"a": 1})
    assert (tmp_path / "new.jsonl").read_bytes() == b"of somebody else"


def test_text_that_is_no_utf_8_is_written_as_json_can(tmp_path: Path) -> None:
    JsonLines(tmp_path / "new.jsonl").append({"a": "bad \udcff"})
    assert json.loads((tmp_path / "new.jsonl").read_bytes()) == {"a": "bad \udcff"}


def test_a_file_that_was_taken_away_is_not_begun_in_the_middle(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "new.jsonl")
    lines.append({"a": 1})
    (tmp_path / "new.jsonl").unlink()
    with pytest.raises(FileError, match="No such file"):
        lines.append({"a": 2})
    assert not (tmp_path / "new.jsonl").exists()


def test_a_line_that_fits_in_part_only_is_not_there(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="the size of files is limited as POSIX does it")
    lines, other = JsonLines(tmp_path / "new.jsonl"), JsonLines(tmp_path / "other.jsonl")
    lines.append({"a": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        for each in (lines, other):
            with pytest.raises(FileError, match="cannot be written"):
                each.append({"a": "x" * 200})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "new.jsonl").read_bytes() == b'{"a": 1}\n'
    assert not (tmp_path / "other.jsonl").exists()
    lines.append({"a": 2})
    assert (tmp_path / "new.jsonl").read_bytes() == b'{"a": 1}\n{"a": 2}\n'


def test_a_full_disk_is_told_as_such(small_disk: Path) -> None:
    lines, other = JsonLines(small_disk / "new.jsonl"), JsonLines(small_disk / "other.jsonl")
    lines.append({"a": 1})
    (small_disk / "filler").write_bytes(b"x" * shutil.disk_usage(small_disk).free)
    for each in (lines, other):
        with pytest.raises(DiskFullError, match="no space left"):
            each.append({"a": "x" * 100_000})
    assert (small_disk / "new.jsonl").read_bytes() == b'{"a": 1}\n'
    assert not (small_disk / "other.jsonl").exists()


def test_a_record_on_a_full_disk_ends_the_command_with_its_own_code(
    vllama: Vllama, clip: Path, small_disk: Path
) -> None:
    (small_disk / "filler").write_bytes(b"x" * shutil.disk_usage(small_disk).free)
    path = small_disk / "record.jsonl"
    done = vllama("ask", clip, "What?", "-m", "miniature", "-n", 2, "--record", path)
    assert (done.returncode, done.stderr.splitlines()[-1].count("no space left")) == (7, 1), done.stderr
    assert done.stdout.strip(), "the answer was given"
    assert not path.exists()


def test_no_record_is_left_where_nothing_was_answered(vllama: Vllama, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    done = vllama("ask", clip, "What? " * 3000, "-m", "miniature", "--record", path)
    assert (done.returncode, path.exists()) == (6, False), done.stderr
