from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from vllama.runtime.benchmark.benchmark import _limits, measure_answering, measure_encoding, prepare, run_benchmark
from vllama.runtime.benchmark.figures import Answering, Benchmark, Encoding, Setup, Stage
from vllama.runtime.benchmark.limits import Limits
from vllama.runtime.bundle import shipped_bundle
from vllama.runtime.cache.catalogue import list_entries
from vllama.runtime.errors import DiskFullError, FileError, SpecError

_MADE_UP = Benchmark(
    model="made-up",
    precision={"frames": "int8", "video": "int8", "clips": "int8", "audio": "int8", "llm": "Q4_K_M"},  # as export does
    setup=Setup(Path("made-up"), threads=2),
    limits=Limits(fp32_flops=100e9, int8_ops=400e9, read_bytes=20e9),
    encoding=Encoding("cpu", (Stage("decode", 5.0, 0.0),), clip_seconds=8, index_seconds=4.0, peak_bytes=None),
    answering=Answering("on the CPU", 500.0, 80, 900.0, 200.0, 100.0, 90.0, 4.0, 4_000_000_000, None),
)


def test_share_is_of_the_arithmetic_that_the_graph_computes_in() -> None:
    for name, gflop in (("frame", 200.0), ("clip", 200.0), ("video", 50.0), ("audio", 50.0)):
        assert _MADE_UP.share(Stage(name, 1000.0, gflop)) == pytest.approx(0.5), name
    for precision in ("fp32", "fp16"):
        wider = replace(_MADE_UP, precision=dict.fromkeys(_MADE_UP.precision, precision))
        assert wider.share(Stage("frame", 1000.0, 50.0)) == pytest.approx(0.5), precision
    assert _MADE_UP.share(Stage("decode", 5.0, 0.0)) is None


def test_writing_an_answer_is_measured_by_what_it_reads() -> None:
    assert _MADE_UP.decode_share == pytest.approx(4.0 * 4e9 / 20e9)


def test_nothing_on_a_gpu_is_told_as_a_share_of_the_cpu() -> None:
    encoding, answering = replace(_MADE_UP.encoding, device="cuda:0"), replace(_MADE_UP.answering, how="with the GPU")
    on_gpu = replace(_MADE_UP, encoding=encoding, answering=answering)
    assert (on_gpu.share(Stage("frame", 1000.0, 200.0)), on_gpu.decode_share) == (None, None)


def test_index_speed_is_seconds_of_video_per_second() -> None:
    assert _MADE_UP.index_speed == pytest.approx(2.0)
    assert replace(_MADE_UP, encoding=replace(_MADE_UP.encoding, index_seconds=16.0)).index_speed == pytest.approx(0.5)


def test_device_that_cannot_be_is_refused_before_anything_is_measured() -> None:
    said: list[str] = []
    with pytest.raises(SpecError, match="device 'gpu' is unknown"):
        run_benchmark(Setup(shipped_bundle(), threads=1, device="gpu"), 0.0, said.append)
    assert said == []


def test_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(OSError, match="none") as system:
        (tmp_path / "none" / "folder").mkdir()
    reason = re.escape(str(system.value.strerror))  # Windows has words of its own
    with pytest.raises(FileError, match=rf"none.vllama-bench-.*: {reason}; set \$TMPDIR to a folder"):
        run_benchmark(Setup(shipped_bundle(), threads=1, device="cpu"), 0.0)
    with pytest.raises(FileError, match=r"none.*: No such file or directory; set \$TMPDIR to a folder that can be"):
        prepare(tmp_path / "none")
    with pytest.raises(FileError, match=r"none.fp32\.onnx: No such file or directory; set \$TMPDIR"):
        _limits(1, 0.0, tmp_path / "none", print)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that is always full")
def test_disk_that_is_full_is_our_error(tmp_path: Path) -> None:
    (tmp_path / "fp32.onnx").symlink_to("/dev/full")
    with pytest.raises(
        DiskFullError, match=rf"^{tmp_path}.*: no space left; free some, or set \$TMPDIR to another disk"
    ):
        _limits(1, 0.0, tmp_path, print)
    (tmp_path / "clip.mp4").symlink_to("/dev/full")
    with pytest.raises(DiskFullError, match="no space left"):
        prepare(tmp_path)


def test_miniature_is_measured_from_encoding_to_answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "own"))
    said: list[str] = []
    setup = Setup(shipped_bundle(), threads=1, device="cpu")
    prepare(tmp_path)
    encoding = measure_encoding(setup, tmp_path, 0.0, said.append)
    assert [stage.name for stage in encoding.stages] == ["decode", "frame", "video", "clip", "audio"]
    assert all(stage.ms > 0 for stage in encoding.stages)
    assert {stage.name for stage in encoding.stages if not stage.gflop} == {"decode"}
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path))
    (entry,) = list_entries()
    assert (entry.frames, encoding.clip_seconds) == (8, 8)  # a picture a second, none more for the whole-clip rule

    answering = measure_answering(setup, tmp_path, 0.0, said.append)
    assert answering.prompt_tokens > 40
    assert 0 < answering.ahead_ms < answering.cold_ms
    assert min(answering.prefill_rate, answering.decode_rate) > 0
    assert 2_000_000 < answering.bytes_per_token < 4_000_000  # the GGUF has 3.2 MB
    assert any("Q-former" in text or "graph" in text for text in said)
    assert len(list_entries()) == 1  # nothing was encoded again
