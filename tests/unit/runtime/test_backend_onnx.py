from __future__ import annotations

import _ctypes
import ctypes
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from vllama.runtime import backend_onnx
from vllama.runtime.backend import open_backend
from vllama.runtime.backend_onnx import OnnxBackend, check_cuda
from vllama.runtime.errors import (
    BackendError,
    BackendUnavailableError,
    FileError,
    MissingFileError,
    ShapeError,
)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    check_cuda.cache_clear()
    yield
    check_cuda.cache_clear()


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """y = x @ w for x (n, 3)."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, (3, 2), np.arange(6, dtype=np.float32))
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "product",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 3))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", 2))],
            [weights],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    path = tmp_path / "product.onnx"
    onnx.save(model, path)
    return path


def test_graph_runs_by_name_at_any_batch_size(graph: Path) -> None:
    backend = open_backend(graph, threads=1)
    for n in (1, 4):
        x = np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)
        expected = x @ np.arange(6, dtype=np.float32).reshape(3, 2)
        np.testing.assert_allclose(backend.run({"x": x})["y"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"z": np.zeros((1, 3), np.float32)},
        {"x": np.zeros((1, 4), np.float32)},
        {"x": np.zeros(3, np.float32)},
        {"x": np.zeros((1, 3), np.float64)},
    ],
)
def test_input_that_does_not_fit_is_refused_by_name(graph: Path, inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(ShapeError, match=r"product\.onnx"):
        open_backend(graph).run(inputs)


def test_closed_graph_says_so(graph: Path) -> None:
    backend = open_backend(graph)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="was closed"):
        backend.run({"x": np.zeros((1, 3), np.float32)})


def test_unusable_files_are_refused(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        open_backend(tmp_path / "none.onnx")
    graph.write_bytes(graph.read_bytes()[:40])
    with pytest.raises(FileError, match="not a usable ONNX graph") as error:
        open_backend(graph)
    assert "\n" not in str(error.value)


def test_device_that_is_not_there_is_named(graph: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(BackendUnavailableError, match="CUDAExecutionProvider"):
            open_backend(graph, "cuda")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise ImportError('libstdc++ is too old')", "onnxruntime cannot be loaded (libstdc++ is too old); install"),
        (
            "try:\n    raise KeyboardInterrupt\nexcept BaseException as error:\n    raise ImportError('x') from error",
            "KeyboardInterrupt",
        ),
        ("import numpy.nothing", "onnxruntime cannot be loaded (No module named 'numpy.nothing'); install"),
        (
            None,
            'onnxruntime is not installed; install the extra `cpu` (`pip install ".[cpu]"` in vllama\'s checkout), '
            "with an NVIDIA GPU `cuda`",
        ),
    ],
)
def test_runtime_that_is_there_and_cannot_be_loaded_is_not_said_to_be_missing(
    code: str | None, words: str, graph: Path, tmp_path: Path
) -> None:
    if code is not None:
        (tmp_path / "onnxruntime.py").write_text(code)
    lines = [
        "import sys, pathlib",
        "from vllama.runtime.backend_onnx import OnnxBackend",
        "sys.path[:] = [sys.argv[1]]",
        "OnnxBackend(pathlib.Path(sys.argv[2]))",
    ]
    command = [sys.executable, "-c", "\n".join(lines), str(tmp_path), str(graph)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert words in done.stderr.splitlines()[-1]


def test_library_that_cuda_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a build that claims to have CUDA; this one's own part of it is not there."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load cublas64_13.dll"))
    with pytest.raises(BackendUnavailableError, match=r"cannot use CUDA: .*onnxruntime_providers_cuda.*--device cpu"):
        check_cuda()


def test_nothing_is_printed_while_cuda_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    def preload() -> None:
        print("Failed to load cublas64_13.dll")
        print("Please follow https://onnxruntime.ai/docs/install", file=sys.stderr)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    with pytest.raises(BackendUnavailableError):
        check_cuda()
    assert capfd.readouterr() == ("", "")


def test_cuda_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that is opened later, beside other threads, must not take their stdout away."""
    import onnxruntime

    calls: list[int] = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: calls.append(1))
    monkeypatch.setattr(backend_onnx, "_LIBRARIES", ("providers_shared",))  # the part that builds for CPUs have, too
    monkeypatch.setattr(backend_onnx, "_CUDNN", _ctypes.__file__)  # any library
    check_cuda()
    check_cuda()
    assert calls == [1]


def test_cudnn_is_looked_for_before_a_convolution_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(backend_onnx, "_LIBRARIES", ("providers_shared",))
    try:
        ctypes.CDLL(backend_onnx._CUDNN)
    except OSError:
        install = re.escape('install the extra `cuda` (`pip install ".[cuda]"` in vllama\'s checkout) with its CUDA')
        words = rf"^ONNX Runtime cannot use CUDA: .*cudnn.*; {install} packages, or use"
        with pytest.raises(BackendUnavailableError, match=words):
            check_cuda()
    else:
        check_cuda()


def test_gpu_that_fails_is_told_and_never_replaced_by_the_cpu(
    graph: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    create = onnxruntime.InferenceSession._create_inference_session

    def without_gpu(self: Any, providers: list[Any], *rest: Any) -> None:
        if providers[0] != "CPUExecutionProvider":
            raise RuntimeError("CUDA failure 35: the driver is too old\n for this runtime")
        create(self, providers, *rest)

    monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", without_gpu)
    monkeypatch.setattr(backend_onnx, "check_cuda", lambda: None)
    words = r"^product\.onnx on cuda:1: CUDA failure 35: .* for this runtime; check `nvidia-smi`, or use --device cpu$"
    with pytest.raises(BackendError, match=words):
        open_backend(graph, "cuda:1")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("device", "advice"), [("cpu", "export the model again"), ("cuda:0", "check `nvidia-smi`")])
def test_run_that_fails_says_what_to_do_where_it_ran(device: str, advice: str, tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n",))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3))]
    shape = [helper.make_tensor("shape", TensorProto.INT64, (2,), [2, 3])]
    made = helper.make_graph([node], "six", inputs, outputs, shape)
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "six.onnx"
    )
    backend = OnnxBackend(tmp_path / "six.onnx")
    backend._device = device  # there is no GPU to fail on
    with pytest.raises(BackendError, match=rf"^six\.onnx.*; {advice}") as error:
        backend.run({"x": np.zeros(5, np.float32)})
    assert "\n" not in str(error.value)


def test_two_builds_of_onnxruntime_in_one_environment_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("onnxruntime", "onnxruntime-gpu"):
        folder = tmp_path / f"{name.replace('-', '_')}-1.31.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BackendUnavailableError, match=r"are both installed, .*uninstall both, then install"):
        check_cuda()
