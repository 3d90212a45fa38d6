from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import llama_supports_gpu_offload

from tests.conftest import Done, Vllama
from vllama.cli.record import There, digest
from vllama.cli.replay import _find
from vllama.runtime import Timeline
from vllama.runtime.bundle import shipped_bundle
from vllama.runtime.cache import content
from vllama.runtime.manifest import FileRecord, hash_file
from vllama.runtime.remembered import Remembered
from vllama.runtime.timeline import FrameFeature

ASKED = ("-m", "miniature", "-n", 8, "--temperature", 0, "--device", "cpu")


@pytest.fixture
def run(command: Vllama, tmp_path: Path) -> Vllama:
    """The command with a cache of its own."""

    def run(*arguments: object, cache: str = "cache") -> Done:
        return command(*arguments, env={"VLLAMA_CACHE": str(tmp_path / cache)})

    return run


@pytest.fixture
def record(run: Vllama, clip: Path, tmp_path: Path) -> Path:
    path = tmp_path / "record.jsonl"
    done = run("ask", clip, "What?", *ASKED, "--record", path)
    assert done.returncode == 0, done.stderr
    return path


def lines(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text("utf-8").splitlines()]


def with_head(record: Path, **changes: object) -> Path:
    head, *rows = lines(record)
    record.write_text("\n".join(map(json.dumps, [{**head, **changes}, *rows])), "utf-8")
    return record


def assert_same(done: Done, times: int = 1) -> None:
    assert (done.returncode, done.stderr.count("same: ")) == (0, times), done.stderr
    assert not [line for line in done.stderr.splitlines() if "note" in line or "differs" in line], done.stderr


def test_replay_runs_where_the_record_ran_unless_told_otherwise(
    run: Vllama, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MODEL", "DEVICE", "ENGINE", "GPU_LAYERS"):
        monkeypatch.setenv(f"VLLAMA_{name}", "nothing")  # what suits a person's machine, which `ask` would take
    assert (lines(record)[0]["device"], lines(record)[0]["runner"]) == ("cpu", "onnx")
    assert_same(run("replay", record))
    assert_same(run("replay", record, "--device", "cpu", "--engine", "onnx", "--gpu-layers", "0"))
    with_head(record, device="cuda:99", runner="tensorrt", gpu_layers=3)
    elsewhere = run("replay", record)
    assert (elsewhere.returncode, elsewhere.stdout) == (5, ""), "on the CPU other tokens might come out"
    assert elsewhere.stderr.count("\n") == 1
    as_recorded = run("replay", record, "--device", "cpu")
    assert ("finds no GPU" in as_recorded.stderr) == (not llama_supports_gpu_offload()), as_recorded.stderr
    here = run("replay", record, "--device", "cpu", "--gpu-layers", "0")
    assert (here.returncode, "same: " in here.stderr) == (0, True), here.stderr
    where = "encoded on cpu with onnx, recorded on cuda:99 with tensorrt"
    layers = "answered with 0 layers on the GPU, recorded with 3"
    assert f"{where}; {layers}: answers may differ" in here.stderr
    wrong = run("replay", record, "--device", "cpu", "--engine", "bogus")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1), wrong.stderr


def test_recorded_bundle_is_found_by_its_name_or_is_the_persons_own(
    run: Vllama, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_head(record, model="elsewhere")
    done = run("replay", record)
    assert done.returncode == 3
    assert done.stderr.rstrip().endswith("; or give the recorded bundle's folder with --model"), done.stderr
    monkeypatch.setenv("VLLAMA_MODEL", str(shipped_bundle()))
    assert_same(run("replay", record))


def test_replay_has_the_context_of_the_record(run: Vllama, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    assert run("index", clip, "-m", "miniature", "--fps", 8).returncode == 0
    how = ("--long", "segments", "--ctx-size", 200, "--record", path)
    assert run("ask", clip, "What happens last?", *ASKED, *how).returncode == 0
    assert (lines(path)[0]["n_ctx"], lines(path)[0]["gpu_layers"]) == (200, 0)
    assert_same(run("replay", path))


@pytest.mark.parametrize(
    "how",
    [("--at", "3"), ("--from", "0.4", "--to", "2.6"), (), ("--long", "memory"), ("--last", "2s", "--long", "map")],
)
def test_replay_sees_what_the_question_saw_whatever_was_asked_since(
    run: Vllama, film: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    path = tmp_path / "record.jsonl"
    if "--to" in how:  # from pictures so dense that the span needs none between
        assert run("index", film, "-m", "miniature", "--fps", 4).returncode == 0
    assert run("ask", film, "What happens?", *ASKED, *how, "--record", path).returncode == 0
    for span in (("--from", "1", "--to", "2"), ("--from", "0", "--to", "1.5")):
        assert run("ask", film, "What?", *ASKED, *span).returncode == 0
    assert_same(run("replay", path))
    assert run("index", film, "-m", "miniature", "--fps", 10).returncode == 0
    assert_same(run("replay", path))


def test_replay_sees_no_more_where_the_clip_was_indexed_more_densely(
    run: Vllama, clip: Path, record: Path, tmp_path: Path
) -> None:
    span = tmp_path / "span.jsonl"
    options = ("--from", "0.4", "--to", "2.6", "--no-audio")  # what was heard by another rule cannot be had again
    assert run("ask", clip, "What?", *ASKED, *options, "--record", span).returncode == 0
    assert run("index", clip, "-m", "miniature", "--fps", 4, cache="dense").returncode == 0
    assert_same(run("replay", record, cache="dense"))
    assert_same(run("replay", span, cache="dense"))


def test_a_record_says_what_each_question_could_choose_from(
    record: Path,
) -> None:
    head, row = lines(record)
    assert head["there"] == {"frames": [0, 5, 10, 15, 20, 25, 30, 35], "copies": [], "clips": [], "remembered": None}
    assert (row["came"], row["span"], row["asked_long"], row["long"]) == (None, None, None, "frames")


def test_the_memory_of_the_whole_is_kept_where_it_is_the_recorded_one_only() -> None:
    timeline = Timeline("", "", "video", 10, 1.0, 10.0, sound=False)
    timeline.remembered = Remembered(np.ones((2, 3), np.float32), (0.0,), 10)
    there = There((), (), (), digest(timeline.remembered))
    assert _find(there, timeline).remembered is timeline.remembered
    for other in (None, "another"):
        assert _find(replace(there, remembered=other), timeline).remembered is None


def test_a_picture_that_has_other_features_than_recorded_is_lacking() -> None:
    features = np.arange(3 * 6, dtype=np.float32).reshape(3, 2, 3)
    timeline = Timeline("m", "c", "video", 3, 3.0, 1.0, sound=False)
    for index, of, equal in ((0, None, True), (1, 0, False), (2, None, True)):
        own = features[index if of is None else of]
        timeline.add_frame(FrameFeature(index, float(index), own, of=of, equal=equal))
    there = There((0, 1, 2), ((1, 0),), (), None)
    found = _find(there, timeline)
    assert ([frame.index for frame in found.frames], found.lacking, found.missing) == ([0, 1, 2], set(), 0)
    assert found.frames[1].features is found.frames[0].features
    itself = _find(replace(there, copies=()), timeline)
    assert ([frame.index for frame in itself.frames], itself.lacking, itself.missing) == ([0, 2], {1}, 1)
    of_another = _find(replace(there, copies=((1, 2),)), timeline)
    np.testing.assert_array_equal(of_another.frames[1].features, features[2])
    of_a_copy = _find(replace(there, copies=((2, 1),)), timeline)
    assert of_a_copy.lacking == {1, 2}


def test_recorded_pictures_that_are_not_there_are_said(run: Vllama, record: Path) -> None:
    there = lines(record)[0]["there"]
    with_head(record, there={**there, "frames": [*there["frames"], 10**9], "clips": [0.123]})
    done = run("replay", record)
    assert "2 of the recorded pictures and stretches of sound are not here: answers may differ" in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (0, 2)


def test_an_open_end_is_json_and_is_repeated(run: Vllama, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    assert run("ask", clip, "What?", "And?", *ASKED, "--from", "2", "--record", path).returncode == 0
    assert [row["span"] for row in lines(path)[1:]] == [[2.0, None]] * 2
    assert "Infinity" not in path.read_text("utf-8")
    assert_same(run("replay", path), 2)


def test_a_clip_that_was_moved_is_given_to_replay(run: Vllama, record: Path, clip: Path, tmp_path: Path) -> None:
    with_head(record, clip=str(tmp_path / "gone.mp4"))
    gone = run("replay", record)
    assert (gone.returncode, gone.stdout, gone.stderr.count("\n")) == (4, "", 1), gone.stderr
    assert_same(run("replay", record, "--clip", shutil.copy(clip, tmp_path / "moved.mp4")))


def test_replay_draws_as_the_record_did_with_its_kv_cache(run: Vllama, clip: Path, tmp_path: Path) -> None:
    drawn = (*ASKED, "-n", 16, "--temperature", 3, "--top-p", 1, "--top-k", 0, "--seed", 5)
    answers = []
    for kv in ("f16", "q8_0"):
        path = tmp_path / f"{kv}.jsonl"
        assert run("ask", clip, "What happens?", *drawn, "--kv", kv, "--record", path).returncode == 0
        assert_same(run("replay", path))
        answers.append(lines(path)[1]["token_ids"])
    assert answers[0] != answers[1], "or the test would show nothing"


def test_a_prompt_that_is_another_is_said(run: Vllama, record: Path) -> None:
    head, row = lines(record)
    number = next(place for place, key in enumerate(row["prompt"]) if isinstance(key, int))
    row["prompt"][number] += 1
    record.write_text("\n".join(map(json.dumps, [head, row])), "utf-8")
    done = run("replay", record)
    assert (done.returncode, done.stderr) == (0, f"same: {len(row['token_ids'])} tokens; the prompt differs\n")
    row["token_ids"][3] += 1
    record.write_text("\n".join(map(json.dumps, [head, row])), "utf-8")
    done = run("replay", record)
    said = f"differs from token 3 of {len(row['token_ids'])} on; the prompt differs too\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_another_clip_is_refused_before_the_model_is_looked_for(run: Vllama, record: Path, silent_clip: Path) -> None:
    done = run("replay", record, "--clip", silent_clip, "-m", "no-such-model")
    assert (done.returncode, "its contents differ" in done.stderr) == (3, True), done.stderr


def test_a_bundle_that_lacks_a_recorded_file_is_refused(run: Vllama, record: Path) -> None:
    with_head(record, model_files={**lines(record)[0]["model_files"], "more.onnx": "0"})
    done = run("replay", record)
    assert (done.returncode, "more.onnx is not the recorded one" in done.stderr) == (3, True), done.stderr


def test_a_clip_that_was_moved_is_hashed_once(
    run: Vllama, record: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, hashed = Path(shutil.copy(clip, tmp_path / "moved.mp4")), list[Path]()
    os.utime(moved, (0, 0))  # what was changed just now is not remembered

    def counted(path: Path) -> FileRecord:
        hashed.append(path)
        return hash_file(path)

    monkeypatch.setattr(content, "hash_file", counted)
    assert_same(run("replay", record, "--clip", moved, cache="new"))
    assert hashed == [moved]


def test_the_memory_of_the_whole_is_made_again_where_nothing_is_saved(run: Vllama, film: Path, tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    assert run("ask", film, "What happens?", *ASKED, "--long", "memory", "--record", path).returncode == 0
    assert lines(path)[0]["there"]["remembered"]
    assert_same(run("replay", path, cache="new"))


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="names are texts there")
def test_a_clip_whose_name_is_no_text_is_repeated(run: Vllama, clip: Path, tmp_path: Path) -> None:
    named, path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")), tmp_path / "record.jsonl"
    shutil.copy(clip, named)
    assert run("ask", named, "What?", *ASKED, "--record", path).returncode == 0
    assert_same(run("replay", path, "--clip", named))
