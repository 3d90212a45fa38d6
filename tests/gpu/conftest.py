"""What the tests on a GPU share; where there is none they are skipped with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vllama.export import export_model
from vllama.export.to_tensorrt import EngineOptions, add_engines, open_builder
from vllama.runtime.backend_onnx import check_cuda
from vllama.runtime.bundle import Bundle, open_bundle
from vllama.runtime.errors import BackendUnavailableError, FileError, SpecError
from vllama.runtime.gpus import Gpu, find_gpus
from vllama.runtime.placement import Placement
from vllama.runtime.spec import find_spec
from vllama.runtime.tensorrt import check_engines

_WEIGHTS = Path(__file__).parents[2] / "export" / "mini" / "weights"
Engined = Callable[[Path], Bundle]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder needs a GPU."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def gpu() -> Gpu:
    try:
        return find_gpus()[0]
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def engined(gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> Engined:
    """A bundle with engines for this GPU; without them where TensorRT cannot build for it."""

    def add(folder: Path) -> Bundle:
        bundle = open_bundle(Path(shutil.copytree(folder, tmp_path_factory.mktemp("engined") / folder.name)))
        try:
            builder = open_builder(EngineOptions(targets=(gpu.capability,)))
        except (BackendUnavailableError, SpecError):
            return bundle
        return add_engines(bundle, builder, lambda part, done, total: None, lambda cost: None)

    return add


@pytest.fixture(scope="session")
def tiny(engined: Engined, export_tiny: Callable[..., Path]) -> Bundle:
    """The recorded original in fp16."""
    return engined(export_tiny(precision="fp16", quant="F32"))


@pytest.fixture(scope="session")
def exact_miniature(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The miniature with encoders in fp32."""
    return _miniature(tmp_path_factory.mktemp("miniature") / "fp32", "fp32")


@pytest.fixture(scope="session")
def miniature(engined: Engined, gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The miniature in fp16."""
    return engined(_miniature(tmp_path_factory.mktemp("miniature") / "fp16", "fp16").folder)


@pytest.fixture(scope="session", params=["onnx", "tensorrt"])
def placement(request: pytest.FixtureRequest, gpu: Gpu, tiny: Bundle) -> Placement:
    """Each way to run the encoders on the GPU, as far as it is installed and knows this GPU."""
    try:
        if request.param == "onnx":
            check_cuda()
        else:
            check_engines(tiny, gpu)
    except (BackendUnavailableError, FileError) as error:
        pytest.skip(str(error))
    return Placement(request.param, gpu)


def _miniature(out: Path, precision: str) -> Bundle:
    return export_model(find_spec("miniature"), _WEIGHTS, out, quant="Q8_0", precision=precision)
