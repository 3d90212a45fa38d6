from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vllama.runtime.memory import Memory
from vllama.runtime.remembered import NAME, Remembered, read_remembered, start_memory, write_remembered
from vllama.runtime.spec import ModelSpec

SAYS: dict[str, object] = {"content": "c", "model": "m", "video": "v"}
WHOLE = Remembered(np.arange(12, dtype=np.float32).reshape(3, 4), (0.0, 1.5), 20)


def test_what_was_remembered_comes_back_from_disk(tmp_path: Path) -> None:
    write_remembered(tmp_path, SAYS, WHOLE)
    found = read_remembered(tmp_path, SAYS)
    assert found is not None
    np.testing.assert_array_equal(found.embeds, WHOLE.embeds)
    assert (found.starts, found.frames) == (WHOLE.starts, WHOLE.frames)


@pytest.mark.parametrize("name", list(SAYS))
def test_what_another_model_or_file_left_is_not_taken(tmp_path: Path, name: str) -> None:
    write_remembered(tmp_path, {**SAYS, name: "other"}, WHOLE)
    assert read_remembered(tmp_path, SAYS) is None


@pytest.mark.parametrize("size", [0, 7, 60, -1])
def test_a_damaged_file_is_not_taken(tmp_path: Path, size: int) -> None:
    write_remembered(tmp_path, SAYS, WHOLE)
    content = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(content[:size])
    assert read_remembered(tmp_path, SAYS) is None


def test_a_few_frames_more_do_not_make_it_useless_and_many_do() -> None:
    assert WHOLE.is_of(20)
    assert WHOLE.is_of(22)
    assert replace(WHOLE, frames=18).is_of(20)
    assert not WHOLE.is_of(30)
    assert not WHOLE.is_of(19)


def test_frames_that_come_one_by_one_make_the_memory_of_all_of_them(vicuna_spec: ModelSpec) -> None:
    frames = np.random.default_rng(0).normal(size=(200, 4, 6)).astype(np.float16)
    memory = start_memory(vicuna_spec, len(frames))
    assert memory is not None
    for number, frame in enumerate(frames):
        memory.add(float(number), frame)
    plain = Memory.over(range(len(frames)), frames, 64).frames()
    np.testing.assert_array_equal(memory.frames().features, plain.features)
    assert memory.frames().times == plain.times


def test_a_clip_that_the_rule_covers_or_a_small_table_has_no_memory(vicuna_spec: ModelSpec) -> None:
    assert start_memory(vicuna_spec, vicuna_spec.video.num_frames) is None
    video = vicuna_spec.video
    small = replace(vicuna_spec, video=replace(video, video_qformer=replace(video.video_qformer, max_frames=4)))
    assert start_memory(small, 1000) is None


def test_a_file_that_cannot_be_opened_now_is_not_taken(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    write_remembered(tmp_path, SAYS, WHOLE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        assert read_remembered(tmp_path, SAYS) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert read_remembered(tmp_path, SAYS) is not None
