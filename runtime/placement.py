"""Where the encoders run: on which GPU or the CPU, through ONNX Runtime or TensorRT, and why there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from .backend_onnx import check_cuda, check_kernels
from .bundle import Bundle
from .errors import BackendUnavailableError, FileError, SpecError, VllamaError
from .gpus import Gpu, NoGpuError, find_gpus
from .precision import suits_gpus
from .tensorrt import check_engines

Runner = Literal["onnx", "tensorrt"]
RunnerChoice = Literal["auto", "onnx", "tensorrt"]
GPU_BATCH = 8  # pictures, or stretches of sound, that go through a GPU together: as many as a question looks at
_DEVICE = re.compile(r"auto|cpu|cuda(?::(\d+))?")
_NAMES = {"onnx": "ONNX Runtime", "tensorrt": "TensorRT"}


@dataclass(frozen=True)
class Placement:
    """What runs the encoders; gpu: None for the CPU; says: what a person should know of the choice, or nothing."""

    runner: Runner = "onnx"
    gpu: Gpu | None = None
    says: str = ""

    @property
    def device(self) -> str:
        """ "cpu", or "cuda:N"."""
        return self.gpu.device if self.gpu else "cpu"

    @property
    def batch(self) -> int:
        """How many pictures to encode together where they are at hand; a CPU has nothing to gain from more than one."""
        return GPU_BATCH if self.gpu else 1


def place(bundle: Bundle, device: str = "auto", runner: str = "auto") -> Placement:
    """Choose, and find out before anything is opened whether it can run there.

    What was asked for is done or refused; "auto" takes the first that works of TensorRT, ONNX Runtime on the GPU, and
    the CPU, and says why not the ones before; that there is no GPU needs no words.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N". runner: "auto", "onnx" or "tensorrt".

    Raises:
        SpecError: there is no such device or engine, or they do not go together.
        BackendError, FileError: what was asked for cannot run here.
    """
    parsed = _DEVICE.fullmatch(device)
    if parsed is None:
        raise SpecError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N")
    if runner not in get_args(RunnerChoice):
        raise SpecError(f"engine {runner!r} is unknown; use one of {', '.join(get_args(RunnerChoice))}")
    if device == "cpu" and runner == "tensorrt":
        raise SpecError("TensorRT runs on GPUs alone; use --engine onnx, or leave --device cpu out")
    if device == "cpu":
        return Placement()
    free = device == "auto" and runner != "tensorrt"  # to take the CPU
    try:
        gpu = _numbered(int(parsed[1] or 0))
    except BackendUnavailableError as error:
        if not free:
            raise
        return Placement(says="" if isinstance(error, NoGpuError) else _because("on the CPU", [error]))
    refusals: list[VllamaError] = []
    for each in _runners(runner):
        refusal = _refusal(bundle, gpu, each)
        if refusal is None:
            return Placement(each, gpu, _because(f"on {gpu.name} ({gpu.device}) with {_NAMES[each]}", refusals))
        refusals.append(refusal)
    if not free:
        raise refusals[-1]  # of the one that was asked for; of both, the one that needs less
    return Placement(says=_because(f"on the CPU, not on {gpu.name}", refusals))


def _numbered(index: int) -> Gpu:
    gpus = find_gpus()
    if index >= len(gpus):
        raise BackendUnavailableError(f"there is no cuda:{index}; there are {', '.join(gpu.device for gpu in gpus)}")
    return gpus[index]


def _runners(asked: str) -> tuple[Runner, ...]:
    return tuple(each for each in ("tensorrt", "onnx") if asked in ("auto", each))


def _refusal(bundle: Bundle, gpu: Gpu, runner: Runner) -> VllamaError | None:
    try:
        if not suits_gpus(bundle.manifest.precision["frames"]):
            raise FileError(
                f"the graphs of {bundle.manifest.model} are int8, which is for CPUs; export it for GPUs: "
                f"`vllama export {bundle.manifest.model} --weights DIR --precision fp16 --out FOLDER`"
            )
        if runner == "tensorrt":
            check_engines(bundle, gpu)
        else:
            check_kernels(gpu)
            check_cuda()
    except (BackendUnavailableError, FileError) as error:
        return error
    return None


def _because(where: str, refusals: list[VllamaError]) -> str:
    reasons = list(dict.fromkeys(str(refusal) for refusal in refusals))
    return f"the encoders run {where}" + (f": {'; '.join(reasons)}" if reasons else "")
