"""Where the encoders are put, on machines whose GPU is made up: what is chosen is decided before it is used."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vllama.runtime import placement
from vllama.runtime.bundle import Bundle, engine_name, open_bundle, shipped_bundle
from vllama.runtime.errors import (
    BackendUnavailableError,
    ChecksumError,
    FileError,
    MissingFileError,
    SpecError,
    VllamaError,
)
from vllama.runtime.gpus import Gpu, NoGpuError
from vllama.runtime.manifest import EngineRecord, hash_file
from vllama.runtime.placement import GPU_BATCH, Placement, place
from vllama.runtime.tensorrt import check_engines, load_library

CARD = Gpu(0, "Card", "8.9", 8 << 30)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """This machine has one GPU, for whoever asks."""
    monkeypatch.setattr(placement, "find_gpus", lambda: (CARD,))
    return CARD


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> tuple[Gpu, ...]:
        raise NoGpuError("there is no NVIDIA driver here")

    monkeypatch.setattr(placement, "find_gpus", none)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def unusable() -> tuple[Gpu, ...]:
        raise BackendUnavailableError("the NVIDIA driver is for CUDA 12")

    monkeypatch.setattr(placement, "find_gpus", unusable)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime can use CUDA."""
    monkeypatch.setattr(placement, "check_cuda", lambda: None)


@pytest.fixture
def int8() -> Bundle:
    return open_bundle(shipped_bundle())


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, int8: Bundle) -> Bundle:
    """One of two graphs in fp16, whose engines are files of a few bytes that TensorRT has never seen."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not made for this system")
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path / "cache"))
    graphs = ("frames", "video")
    for graph in graphs:
        (tmp_path / f"{graph}.onnx").write_bytes(f"{graph} graph".encode())
        (tmp_path / engine_name(graph)).write_bytes(f"{graph} engine".encode())
    files = {f"{graph}.onnx": hash_file(tmp_path / f"{graph}.onnx") for graph in graphs}
    precision = {"frames": "fp16", "video": "fp16", "llm": "Q8_0"}
    made = Bundle(tmp_path, replace(int8.manifest, model="m", files=files, precision=precision), int8.spec)
    return replace(made, manifest=replace(made.manifest, engines={graph: record(made, graph) for graph in graphs}))


def record(bundle: Bundle, graph: str) -> EngineRecord:
    found, library = hash_file(bundle.path(engine_name(graph))), load_library("tensorrt_rtx")
    onnx = bundle.graph_hash(graph)
    return EngineRecord(found.bytes, found.sha256, onnx, library.name, library.version, ("8.9", "12.0"))


def with_engine(bundle: Bundle, **changes: Any) -> Bundle:
    """With another record of the first engine."""
    engines = dict(bundle.manifest.engines)
    engines["frames"] = replace(engines["frames"], **changes)
    return replace(bundle, manifest=replace(bundle.manifest, engines=engines))


def without_engines(bundle: Bundle) -> Bundle:
    return replace(bundle, manifest=replace(bundle.manifest, engines={}))


def test_several_pictures_go_together_through_a_gpu_alone() -> None:
    assert (Placement().batch, Placement("onnx", CARD).batch) == (1, GPU_BATCH)


@pytest.mark.usefixtures("no_gpu")
def test_machine_without_gpu_runs_on_the_cpu_and_says_nothing(bundle: Bundle, int8: Bundle) -> None:
    for each in (bundle, int8):
        for device, runner in (("auto", "auto"), ("auto", "onnx"), ("cpu", "auto"), ("cpu", "onnx")):
            assert place(each, device, runner) == Placement(), (device, runner)


@pytest.mark.usefixtures("broken")
def test_driver_that_is_broken_is_told_and_is_an_error_where_a_gpu_was_asked_for(bundle: Bundle) -> None:
    says = "the encoders run on the CPU: the NVIDIA driver is for CUDA 12"
    assert place(bundle) == Placement(says=says)
    assert place(bundle, "cpu") == Placement()
    for device, runner in (("cuda", "auto"), ("auto", "tensorrt")):
        with pytest.raises(BackendUnavailableError, match="for CUDA 12"):
            place(bundle, device, runner)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("device", "runner"), [("cuda", "auto"), ("cuda:1", "onnx"), ("auto", "tensorrt")])
def test_gpu_that_was_asked_for_and_is_not_there_is_an_error(device: str, runner: str, bundle: Bundle) -> None:
    with pytest.raises(BackendUnavailableError, match="there is no NVIDIA driver here"):
        place(bundle, device, runner)


@pytest.mark.usefixtures("cuda")
def test_engines_are_chosen_where_they_can_run_and_the_choice_is_said(gpu: Gpu, bundle: Bundle) -> None:
    for device in ("auto", "cuda", "cuda:0"):
        for runner in ("auto", "tensorrt"):
            says = "the encoders run on Card (cuda:0) with TensorRT"
            assert place(bundle, device, runner) == Placement("tensorrt", gpu, says)
        assert place(bundle, device, "onnx") == Placement(
            "onnx", gpu, "the encoders run on Card (cuda:0) with ONNX Runtime"
        )
    assert place(bundle, "cpu", "auto") == Placement()


@pytest.mark.usefixtures("cuda")
def test_without_engines_onnx_runtime_is_chosen_and_the_reason_said(gpu: Gpu, bundle: Bundle) -> None:
    found = place(without_engines(bundle), "auto", "auto")
    assert (found.runner, found.gpu) == ("onnx", gpu)
    assert "with ONNX Runtime: m has no TensorRT engine for frames, video; build it: `vllama export m" in found.says


@pytest.mark.usefixtures("gpu")
def test_gpu_that_cannot_be_used_is_left_with_the_reason_or_refused(bundle: Bundle) -> None:
    """ONNX Runtime here is built for CPUs."""
    found = place(without_engines(bundle), "auto", "auto")
    assert (found.runner, found.gpu) == ("onnx", None)
    assert found.says.startswith("the encoders run on the CPU, not on Card: m has no TensorRT engine")
    install = 'CUDAExecutionProvider; install the extra `cuda` (`pip install ".[cuda]"` in vllama\'s checkout)'
    assert install in found.says
    with pytest.raises(BackendUnavailableError, match=re.escape(install)):
        place(without_engines(bundle), "cuda", "auto")
    with pytest.raises(MissingFileError, match="no TensorRT engine for frames, video"):
        place(without_engines(bundle), "auto", "tensorrt")


@pytest.mark.usefixtures("gpu", "cuda")
@pytest.mark.parametrize("runner", ["auto", "onnx", "tensorrt"])
def test_int8_graphs_stay_on_the_cpu_and_are_refused_elsewhere(runner: str, int8: Bundle) -> None:
    with pytest.raises(FileError, match=r"miniature are int8, which is for CPUs; export it for GPUs: `vllama export"):
        place(int8, "cuda", runner)
    if runner != "tensorrt":
        found = place(int8, "auto", runner)
        assert found.gpu is None
        assert found.says.count("int8") == 1


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("capability", ["6.1", "7.0", "7.2", "10.0", "10.3", "11.0", "13.0"])
def test_gpu_that_onnx_runtime_has_no_kernels_for_is_left_or_refused(
    capability: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "find_gpus", lambda: (replace(CARD, capability=capability),))
    words = (
        f"ONNX Runtime has no kernels for Card, compute capability {capability}, only for 7.5, 8.0, 8.6, 8.9, 9.0, "
        "12.0; use --device cpu"
    )
    found = place(bundle, "auto", "onnx")
    assert found == Placement(says=f"the encoders run on the CPU, not on Card: {words}")
    with pytest.raises(BackendUnavailableError) as error:
        place(bundle, "cuda", "onnx")
    assert str(error.value) == words


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "12.0", "12.1"])
def test_gpu_that_runs_the_kernels_of_an_older_one_is_taken(
    capability: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = replace(CARD, capability=capability)
    monkeypatch.setattr(placement, "find_gpus", lambda: (card,))
    assert place(bundle, "auto", "onnx") == Placement(
        "onnx", card, "the encoders run on Card (cuda:0) with ONNX Runtime"
    )


@pytest.mark.usefixtures("gpu")
def test_number_that_no_gpu_has_is_refused(bundle: Bundle) -> None:
    for number in (1, 3):
        with pytest.raises(BackendUnavailableError, match=f"there is no cuda:{number}; there are cuda:0$"):
            place(bundle, f"cuda:{number}")


@pytest.mark.parametrize(
    ("device", "runner", "words"),
    [
        ("gpu", "auto", "device 'gpu' is unknown; use auto, cpu, cuda or cuda:N"),
        ("cuda:x", "auto", "device 'cuda:x' is unknown"),
        ("auto", "openvino", "engine 'openvino' is unknown; use one of auto, onnx, tensorrt"),
        ("cpu", "tensorrt", "TensorRT runs on GPUs alone"),
    ],
)
def test_words_that_make_no_sense_are_refused(device: str, runner: str, words: str, bundle: Bundle) -> None:
    with pytest.raises(SpecError, match=words):
        place(bundle, device, runner)


def cut(bundle: Bundle) -> Bundle:
    path = bundle.path("frames.engine")
    path.write_bytes(path.read_bytes()[:6])
    return bundle


def flipped(bundle: Bundle) -> Bundle:
    bundle.path("frames.engine").write_bytes(b"frames Engine")
    return bundle


def lost(bundle: Bundle) -> Bundle:
    bundle.path("frames.engine").unlink()
    return bundle


@pytest.mark.usefixtures("gpu", "cuda")
@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (cut, ChecksumError, r"frames.engine of m: has 6 bytes, the manifest says 13; build it: `vllama export m"),
        (flipped, ChecksumError, r"frames.engine of m: sha256 is \w{8}.., the manifest says \w{8}..; build it"),
        (lost, MissingFileError, r"frames.engine of m: not in .*; build it"),
        (
            lambda b: with_engine(b, onnx="0" * 64),
            FileError,
            r"m's frames was built from another frames.onnx; build it",
        ),
        (
            lambda b: with_engine(b, version="1.6.1.120"),
            FileError,
            r"m's frames was built by tensorrt_rtx 1.6.1.120, installed is [\d.]+; build it",
        ),
        (
            lambda b: with_engine(b, targets=("7.5", "12.0")),
            BackendUnavailableError,
            r"m's frames was built for compute capability 7.5 12.0, Card has 8.9; build it: .* --target 8.9",
        ),
        (
            lambda b: with_engine(b, library="tensorrt"),
            BackendUnavailableError,
            r"tensorrt is not installed; install NVIDIA's TensorRT, or use --engine onnx",
        ),
    ],
)
def test_engine_that_cannot_run_is_noticed_before_it_is_loaded(
    damage: Callable[[Bundle], Bundle], kind: type[VllamaError], words: str, bundle: Bundle
) -> None:
    check_engines(bundle, CARD)
    broken = damage(bundle)
    with pytest.raises(kind, match=words) as error:
        place(broken, "cuda", "tensorrt")
    assert "\n" not in str(error.value)
    assert str(error.value) in place(broken, "auto", "auto").says
