"""What the tests on a GPU share; where there is none they are skipped with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vllama.export import export_model
from vllama.export.to_tensorrt import EngineOptions, add_engines, open_builder
from vllama.runtime.backend_onnx import check_cuda, check_kernels
from vllama.runtime.bundle import Bundle, open_bundle
from vllama.runtime.errors import BackendError, BackendUnavailableError, FileError, SpecError, VllamaError
from vllama.runtime.gpus import Gpu, find_gpus
from vllama.runtime.placement import Placement
from vllama.runtime.registry import find_spec
from vllama.runtime.tensorrt import check_engines

_WEIGHTS = Path(__file__).parents[2] / "export" / "mini" / "weights"
Engined = Callable[[Path], Bundle]
Unbuilt = dict[Path, VllamaError]  # a bundle's folder, and why it has no engines


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
def unbuilt() -> Unbuilt:
    return {}


@pytest.fixture(scope="session")
def engined(gpu: Gpu, unbuilt: Unbuilt, tmp_path_factory: pytest.TempPathFactory) -> Engined:
    """A bundle with engines for this GPU; where they cannot be built it is as it was, since ONNX Runtime needs none."""

    def add(folder: Path) -> Bundle:
        bundle = open_bundle(Path(shutil.copytree(folder, tmp_path_factory.mktemp("engined") / folder.name)))
        made, error = with_engines(bundle, gpu)
        if error is not None:
            unbuilt[bundle.folder] = error
        return made

    return add


def with_engines(bundle: Bundle, gpu: Gpu) -> tuple[Bundle, VllamaError | None]:
    """A bundle with engines for a GPU, or as it was and what hinders them."""
    try:
        builder = open_builder(EngineOptions(targets=(gpu.capability,)))
        return add_engines(bundle, builder, lambda part, done, total: None, lambda cost: None), None
    except (BackendError, FileError, SpecError) as error:
        return bundle, error


def check_built(bundle: Bundle, unbuilt: Unbuilt) -> None:
    """Skip what needs engines that TensorRT does not build here; fail where it tried and could not."""
    error = unbuilt.get(bundle.folder)
    if isinstance(error, BackendUnavailableError | SpecError):
        pytest.skip(str(error))
    if error is not None:
        pytest.fail(f"no engines: {error}", pytrace=False)


@pytest.fixture(scope="session")
def tiny(engined: Engined, export_tiny: Callable[..., Path]) -> Bundle:
    """The recorded original in fp16."""
    return engined(export_tiny(precision="fp16", quant="F32"))


@pytest.fixture(scope="session")
def exact_miniature(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The miniature with encoders in fp32."""
    return _miniature(tmp_path_factory.mktemp("miniature") / "fp32", "fp32")


@pytest.fixture(scope="session")
def miniature(engined: Engined, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The miniature in fp16."""
    return engined(_miniature(tmp_path_factory.mktemp("miniature") / "fp16", "fp16").folder)


@pytest.fixture(scope="session", params=["onnx", "tensorrt"])
def placement(request: pytest.FixtureRequest, gpu: Gpu, tiny: Bundle, unbuilt: Unbuilt) -> Placement:
    """Each way to run the encoders on the GPU, as far as it is installed and knows this GPU."""
    if request.param == "tensorrt":
        check_built(tiny, unbuilt)
    try:
        if request.param == "onnx":
            check_kernels(gpu)
            check_cuda()
        else:
            check_engines(tiny, gpu)
    except (BackendUnavailableError, FileError) as error:
        pytest.skip(str(error))
    return Placement(request.param, gpu)


@pytest.fixture
def built_miniature(placement: Placement, miniature: Bundle, unbuilt: Unbuilt) -> Bundle:
    """The same, with what the placement runs."""
    if placement.runner == "tensorrt":
        check_built(miniature, unbuilt)
    return miniature


def _miniature(out: Path, precision: str) -> Bundle:
    return export_model(find_spec("miniature"), _WEIGHTS, out, quant="Q8_0", precision=precision)
