from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import needs_ctrl_c
from vllama.export import export_model, to_tensorrt
from vllama.export.meter import PartCost
from vllama.export.precision import lower
from vllama.export.staging import record_files
from vllama.export.to_tensorrt import EngineOptions, add_engines, is_current, open_builder, profiles
from vllama.runtime.bundle import Bundle, open_bundle
from vllama.runtime.errors import BackendUnavailableError, FileError, SpecError
from vllama.runtime.manifest import FileRecord, hash_file, read_manifest
from vllama.runtime.precision import Precision
from vllama.runtime.spec import ModelSpec
from vllama.runtime.tensorrt import make_log

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not made for this system")
_WIDTH = 1024
NEWEST = EngineOptions(targets=("12.0",))


@pytest.fixture(scope="module")
def halves(export_tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded original in fp16, to be given engines."""
    return Path(shutil.copytree(export_tiny(precision="fp16", quant="F16"), tmp_path_factory.mktemp("trt") / "halves"))


@pytest.fixture(scope="module")
def engined(halves: Path) -> tuple[Bundle, list[tuple[str, int, int]], list[PartCost]]:
    """That bundle with engines, and what was told while they were built."""
    steps: list[tuple[str, int, int]] = []
    costs: list[PartCost] = []
    bundle = add_engines(
        open_bundle(halves), open_builder(EngineOptions()), lambda *step: steps.append(step), costs.append
    )
    return bundle, steps, costs


@pytest.fixture
def sound(engined: tuple[Bundle, object, object], tmp_path: Path) -> Bundle:
    """A bundle of one small graph with its engine."""
    whole = engined[0]
    folder = Path(shutil.copytree(whole.folder, tmp_path / "sound"))
    kept = ("audio.", whole.manifest.llm)
    files = {name: record for name, record in whole.manifest.files.items() if name.startswith(kept)}
    engines = {"audio": whole.manifest.engines["audio"]}
    return Bundle(folder, replace(whole.manifest, files=files, engines=engines), whole.spec)


def built(bundle: Bundle, options: EngineOptions = NEWEST) -> list[str]:
    """Which engines are built now, by what is reported."""
    costs: list[PartCost] = []
    add_engines(bundle, open_builder(options), lambda part, done, total: None, costs.append)
    return [cost.part for cost in costs]


def test_every_graph_gets_an_engine_that_says_what_it_came_from(
    engined: tuple[Bundle, object, list[PartCost]], halves: Path
) -> None:
    bundle, _, costs = engined
    engines = read_manifest(halves).engines
    assert set(engines) == {"frames", "video", "clips", "audio"}
    for graph, record in engines.items():
        assert hash_file(halves / f"{graph}.engine") == FileRecord(record.bytes, record.sha256)
        assert record.onnx == bundle.graph_hash(graph)
        assert record.library == "tensorrt_rtx"
        assert record.targets == ("8.0", "8.6", "8.9", "12.0", "12.1")
    assert [(cost.part, cost.bytes) for cost in costs] == [(f"{k}.engine", v.bytes) for k, v in engines.items()]
    assert not list(halves.glob("*.part"))
    assert open_bundle(halves).encoders_hash == bundle.encoders_hash, "features of both ways go together"


def test_progress_rises_to_the_bytes_of_the_graph(
    engined: tuple[Bundle, list[tuple[str, int, int]], object],
) -> None:
    bundle, steps, _ = engined
    for graph in bundle.graphs:
        done = [step[1] for step in steps if step[0] == f"{graph}.engine"]
        (total,) = {step[2] for step in steps if step[0] == f"{graph}.engine"}
        assert total == sum(bundle.manifest.files[f"{graph}.onnx{end}"].bytes for end in ("", ".data"))
        assert done == sorted(done), graph
        assert len(set(done)) > 10
        assert done[-1] == total


def test_engines_that_are_there_are_left_as_they_are(engined: tuple[Bundle, object, object]) -> None:
    assert built(engined[0], EngineOptions()) == []


def test_engine_of_another_graph_target_or_version_is_built_again(sound: Bundle) -> None:
    record = sound.manifest.engines["audio"]
    builder = open_builder(EngineOptions())
    assert is_current(sound, "audio", builder)
    for changed in (
        replace(record, onnx="0" * 64),
        replace(record, version="1.0.0"),
        replace(record, targets=("8.9",)),
        replace(record, library="tensorrt"),
    ):
        other = Bundle(sound.folder, replace(sound.manifest, engines={"audio": changed}), sound.spec)
        assert not is_current(other, "audio", builder), changed
    assert built(sound, NEWEST) == ["audio.engine"]
    assert read_manifest(sound.folder).engines["audio"].targets == ("12.0",)


def test_failure_of_an_older_build_is_no_reason_of_the_next(sound: Bundle) -> None:
    log = make_log(open_builder(NEWEST).library)
    log.errors.append("an older failure")
    assert built(sound, NEWEST) == ["audio.engine"]
    assert "an older failure" not in log.errors


def test_damaged_or_lost_engine_is_built_again(sound: Bundle) -> None:
    path = sound.path("audio.engine")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert built(sound, EngineOptions()) == ["audio.engine"]
    path.unlink()
    assert built(sound, EngineOptions()) == ["audio.engine"]


def test_weights_in_8_bits_make_an_engine_of_half_the_size(sound: Bundle, tmp_path: Path) -> None:
    sizes = {}
    for precision in ("fp16", "w8a16"):
        folder = tmp_path / precision
        folder.mkdir()
        ir.save(product(precision), folder / "clips.onnx", external_data="clips.onnx.data")
        files = record_files(folder, ("clips.onnx", "clips.onnx.data"))
        bundle = Bundle(folder, replace(sound.manifest, files=files, engines={}), sound.spec)
        made = add_engines(bundle, open_builder(NEWEST), lambda part, done, total: None, lambda cost: None)
        sizes[precision] = made.manifest.engines["clips"].bytes
    assert _WIDTH * _WIDTH < sizes["w8a16"] < 0.55 * sizes["fp16"], sizes


def product(precision: Precision) -> ir.Model:
    """fbank (n, K) times a matrix."""
    weight = np.random.default_rng(0).standard_normal((_WIDTH, _WIDTH)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["fbank", "w"], ["clip_features"])],
        "product",
        [helper.make_tensor_value_info("fbank", TensorProto.FLOAT, ["n", _WIDTH])],
        [helper.make_tensor_value_info("clip_features", TensorProto.FLOAT, ["n", _WIDTH])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = ir.serde.deserialize_model(made)
    lower(model, precision)
    return model


def test_failure_of_the_progress_ends_the_build_and_leaves_nothing_half(sound: Bundle) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in sound.folder.iterdir()}

    def stop(part: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_engines(sound, open_builder(NEWEST), stop, lambda cost: None)
    assert {path.name: path.stat().st_mtime_ns for path in sound.folder.iterdir()} == before


_BUILD = """
import sys
from pathlib import Path
from vllama.export.to_tensorrt import EngineOptions, open_builder, to_tensorrt
from vllama.runtime.bundle import read_bundle

def told(done, total):
    print(done, flush=True)

to_tensorrt(read_bundle(Path(sys.argv[1])), "frames", open_builder(EngineOptions()), told)
"""


@needs_ctrl_c
def test_ctrl_c_ends_a_build_at_once_and_leaves_nothing_half(halves: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in halves.iterdir()}
    process = subprocess.Popen(
        [sys.executable, "-c", _BUILD, halves], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()  # it is being built
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert said.count("Traceback") == 1, said  # of ours, which the command line makes one line
    assert process.returncode == -signal.SIGINT
    assert {path.name: path.stat().st_mtime_ns for path in halves.iterdir()} == before


def test_order_and_repeats_of_targets_make_no_other_engine() -> None:
    asked = ("12.0", "8.6", "12.0", "7.5")
    assert open_builder(EngineOptions(targets=asked)).targets == ("7.5", "8.6", "12.0")


def test_graph_that_tensorrt_does_not_take_is_named(export_tiny: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(export_tiny(precision="int8", quant="Q8_0"), tmp_path / "int8"))
    with pytest.raises(FileError, match=r"frames\.onnx: tensorrt_rtx does not take it .*zero point") as error:
        add_engines(open_bundle(folder), open_builder(NEWEST), lambda *step: None, lambda cost: None)
    assert "\n" not in str(error.value)
    assert not list(folder.glob("*.engine*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EngineOptions(targets=("9.0",)), "builds for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1, not for 9.0"),
        (EngineOptions(targets=("sm_89",)), "not for sm_89"),
        (EngineOptions(library="openvino"), "'openvino' is unknown; use one of tensorrt_rtx, tensorrt"),
    ],
)
def test_target_and_library_are_checked_before_any_work(options: EngineOptions, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        open_builder(options)


def test_missing_library_is_named_with_what_to_install() -> None:
    with pytest.raises(BackendUnavailableError, match=r"tensorrt is not installed; install NVIDIA's TensorRT"):
        open_builder(EngineOptions(library="tensorrt"))


def test_what_is_there_must_be_what_is_asked_for(
    halves: Path, export_tiny: Callable[..., Path], vicuna_spec: ModelSpec, tiny_weights: Path
) -> None:
    def export(out: Path, **asked: Any) -> None:
        export_model(vicuna_spec, tiny_weights, out, engines=NEWEST, **asked)

    with pytest.raises(FileError, match="already there, with --quant F16; choose another --out for Q8_0"):
        export(halves, quant="Q8_0")
    with pytest.raises(FileError, match="already there, with --precision fp16; choose another --out for w8a16"):
        export(halves, precision="w8a16")
    with pytest.raises(FileError, match="already there, with graphs in int8, which are for CPUs"):
        export(export_tiny(precision="int8", quant="Q8_0"))
    with pytest.raises(SpecError, match="int8 is for CPUs, and TensorRT takes none of it"):
        export(halves, precision="int8")


def test_profiles_cover_one_picture_live_use_and_whole_clips(vicuna_spec: ModelSpec) -> None:
    batches = [(1, 1, 1), (1, 2, 4), (8, 8, 8), (8, 16, 32)]
    assert profiles("frames", vicuna_spec) == profiles("clips", vicuna_spec) == batches
    assert profiles("audio", vicuna_spec) == [(1, 8, 8)]
    assert profiles("video", vicuna_spec) == [(1, 8, 8), (9, 64, 64)], "up to the pictures of a memory"


def test_progress_may_be_told_by_several_threads() -> None:
    trt = SimpleNamespace(IProgressMonitor=object)
    told: list[float] = []
    monitor = to_tensorrt._monitor(trt, told.append)

    def work(number: int) -> None:
        for turn in range(300):
            phase = f"{number} {turn}"
            monitor.phase_start(phase, None, 2)
            monitor.step_complete(phase, 0)
            monitor.phase_finish(phase)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(before)
    assert monitor.failure is None
    assert (len(told), told) == (1200, sorted(told))


def test_no_more_threads_build_than_were_asked_for(sound: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    builder, made = open_builder(NEWEST, 3), list[Any]()
    real = builder.library.module.Builder

    def kept(log: object) -> Any:
        made.append(real(log))
        return made[-1]

    monkeypatch.setattr(builder.library.module, "Builder", kept)
    add_engines(sound, builder, lambda part, done, total: None, lambda cost: None)
    assert [each.max_threads for each in made] == [3]


def test_library_that_builds_for_its_own_gpu_alone_takes_no_other_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_tensorrt, "load_library", lambda name: SimpleNamespace(name="tensorrt", module=object()))
    monkeypatch.setattr(to_tensorrt, "find_gpus", lambda: [SimpleNamespace(capability="8.9")])
    assert open_builder(EngineOptions(targets=("8.9",))).targets == ("8.9",)
    with pytest.raises(SpecError, match=r"tensorrt builds for the GPU of this machine, 8\.9; leave --target out"):
        open_builder(EngineOptions(targets=("8.9", "12.0")))


def test_what_is_there_must_be_of_the_same_models_toml(
    halves: Path, vicuna_spec: ModelSpec, tiny_weights: Path
) -> None:
    assert vicuna_spec.audio is not None
    for other in (
        replace(vicuna_spec, video=replace(vicuna_spec.video, num_frames=4)),
        replace(vicuna_spec, audio=replace(vicuna_spec.audio, num_clips=4)),
    ):
        with pytest.raises(FileError, match=r"already there, a tiny-vicuna of another models\.toml; choose another"):
            export_model(other, tiny_weights, halves, engines=NEWEST)
