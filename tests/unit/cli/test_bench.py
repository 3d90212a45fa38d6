from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vllama.cli.bench import figures, show
from vllama.runtime.benchmark.figures import Answering, Benchmark, Encoding, Setup, Stage
from vllama.runtime.benchmark.limits import Limits

_STAGES = (
    Stage("decode", 4.0, 0.0),
    Stage("frame", 2000.0, 500.0),
    Stage("video", 20.0, 2.5),
    Stage("clip", 200.0, 40.0),
    Stage("audio", 4.0, 0.4),
)
_FOUND = Benchmark(
    model="made-up",
    precision={"frames": "int8", "video": "fp32", "clips": "int8", "audio": "fp32", "llm": "Q4_K_M"},
    setup=Setup(Path("made-up"), threads=2),
    limits=Limits(200e9, 500e9, 20e9),
    encoding=Encoding("cpu", _STAGES, 8, 16.0, 5_000_000_000),
    answering=Answering("on the CPU", 700.0, 90, 9000.0, 2000.0, 1500.0, 10.0, 4.5, 4_000_000_000, None),
)


def test_tables_say_what_was_measured_and_the_share_of_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    show(_FOUND)
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("200 GFLOP/s", "500 GOP/s", "20.0 GB/s", "0.50 x real time", "5.00 GB", "9000 ms", "4.5 tokens/s"):
        assert text in shown
    assert "2000.0 │ 0.50 │ 500.00 │ 50%" in shown
    assert "18.0 GB/s, 90% of the machine" in shown


def test_figures_are_json_and_leave_out_no_share_but_that_of_decoding_a_picture() -> None:
    found = json.loads(json.dumps(figures(_FOUND)))
    assert {name for name, stage in found["stages"].items() if stage["share"] is None} == {"decode"}
    assert found["decode"]["share"] == pytest.approx(0.9)
    assert found["peak_bytes"] == {"encoding": 5_000_000_000, "answering": None}


def test_on_a_gpu_nothing_is_called_a_share_of_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    on_gpu = replace(
        _FOUND,
        encoding=replace(_FOUND.encoding, device="cuda:0"),
        answering=replace(_FOUND.answering, how="with the GPU"),
    )
    assert figures(on_gpu)["stages"]["frame"]["share"] is None  # type: ignore[index]
    show(on_gpu)
    assert "%" not in capsys.readouterr().out
