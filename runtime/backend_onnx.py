"""An ONNX graph on ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from .errors import BackendError, BackendUnavailableError, FileError, MissingFileError, ShapeError, SpecError
from .types import Float32

if TYPE_CHECKING:
    import onnxruntime

READY = "vllama.ready"  # marks a graph in which ONNX Runtime has nothing left to improve on a CPU
_PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}


class OnnxBackend:
    """An `onnxruntime.InferenceSession` behind the `Backend` protocol."""

    def __init__(self, path: Path, device: str = "cpu", threads: int | None = None) -> None:
        if device not in _PROVIDERS:
            raise SpecError(f"device {device!r} is unknown; use one of {', '.join(_PROVIDERS)}")
        if not path.is_file():
            raise MissingFileError(f"{path}: no such file; export the model again")
        self._path = path
        self._session: onnxruntime.InferenceSession | None = _open_session(path, device, threads)
        self._inputs = {i.name: i.shape for i in self._session.get_inputs()}
        self._outputs = [o.name for o in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Float32]) -> dict[str, Float32]:
        """See `Backend.run`."""
        ort = _import_onnxruntime()
        if self._session is None:
            raise BackendError(f"{self._path.name}: it was closed; open it again")
        self._check(inputs)
        try:
            outputs = self._session.run(self._outputs, dict(inputs))
        except _failures(ort) as error:
            raise BackendError(f"{self._path.name}: {_one_line(error)}; export the model again") from error
        return dict(zip(self._outputs, outputs, strict=True))

    def close(self) -> None:
        """See `Backend.close`."""
        self._session = None

    def _check(self, inputs: Mapping[str, Float32]) -> None:
        if set(inputs) != set(self._inputs):
            raise ShapeError(f"{self._path.name}: takes {sorted(self._inputs)}, got {sorted(inputs)}")
        for name, shape in self._inputs.items():
            array = inputs[name]
            fits = len(array.shape) == len(shape) and all(
                isinstance(size, str) or size == got for size, got in zip(shape, array.shape, strict=True)
            )
            if not fits or array.dtype != np.float32:
                raise ShapeError(f"{self._path.name}: {name} is float32 {shape}, got {array.dtype} {array.shape}")


def _open_session(path: Path, device: str, threads: int | None) -> onnxruntime.InferenceSession:
    ort = _import_onnxruntime()
    wanted = _PROVIDERS[device][0]
    if wanted not in ort.get_available_providers():
        raise BackendUnavailableError(f"this onnxruntime has no {wanted}; install `vllama[cuda]` or use --device cpu")
    options = _options(ort, threads)
    try:
        session = None
        if device == "cpu":
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = ort.InferenceSession(str(path), options, providers=_PROVIDERS[device])
        if session is None or READY not in session.get_modelmeta().custom_metadata_map:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
            session = ort.InferenceSession(str(path), options, providers=_PROVIDERS[device])
    except _failures(ort) as error:
        raise FileError(f"{path}: not a usable ONNX graph ({_one_line(error)}); export the model again") from error
    if wanted not in session.get_providers():  # onnxruntime falls back to the CPU with no more than a printed line
        raise BackendUnavailableError(
            f"ONNX Runtime cannot use {wanted} here; install `vllama[cuda]` or use --device cpu"
        )
    return session


def _options(ort: ModuleType, threads: int | None) -> onnxruntime.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # failures come back as exceptions; the log would be a second voice on stderr
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.inter_op_num_threads = 1
    # Without prepacking the weights stay mapped from the file: opening is instant and the memory is evictable.
    options.add_session_config_entry("session.disable_prepacking", "1")
    # Spinning workers would take the cores from the language model.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _import_onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailableError(
            "onnxruntime is not installed; install `vllama[cpu]` or `vllama[cuda]`"
        ) from error
    module: ModuleType = onnxruntime
    return module


def _failures(ort: ModuleType) -> tuple[type[Exception], ...]:
    state = ort.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented",
             "RuntimeException", "EPFail", "ModelLoaded", "NoModel")  # fmt: skip
    return (*(getattr(state, name) for name in names if hasattr(state, name)), RuntimeError)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
