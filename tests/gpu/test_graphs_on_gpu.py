"""Every graph on the GPU, through ONNX Runtime and TensorRT, against the recorded original and fp32 on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vllama.runtime.backend import Backend, open_backend, open_graph
from vllama.runtime.bundle import Bundle
from vllama.runtime.errors import BackendError, ShapeError
from vllama.runtime.placement import Placement

Arrays = dict[str, np.ndarray]
_RELATIVE = 0.01  # L2, of products in fp16; on the CPU 0.001 was seen
RNG = np.random.default_rng(0)


@pytest.fixture
def opened(placement: Placement, tiny: Bundle) -> Iterator[Callable[[str], Backend]]:
    """Opens graphs of the recorded original on the GPU."""
    backends: list[Backend] = []

    def open_one(graph: str) -> Backend:
        backends.append(open_graph(tiny, graph, placement))
        return backends[-1]

    yield open_one
    for backend in backends:
        backend.close()


def on_cpu(bundle: Path, graph: str, inputs: Arrays) -> np.ndarray:
    backend = open_backend(bundle / f"{graph}.onnx")
    (output,) = backend.run(inputs).values()
    backend.close()
    return output


def near(found: np.ndarray, wanted: np.ndarray) -> None:
    wanted = wanted.reshape(found.shape)
    error = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    assert error < _RELATIVE, f"relative error {error:.4f}"


def pixels(bundle: Bundle, count: int) -> np.ndarray:
    size = bundle.spec.video.image_size
    return RNG.standard_normal((count, 3, size, size)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3, 4, 7, 8, 33])
def test_pictures_give_the_features_of_fp32_in_batches_of_every_profile(
    count: int, opened: Callable[[str], Backend], tiny: Bundle, tiny_bundle: Path
) -> None:
    inputs = {"pixel_values": pixels(tiny, count)}
    near(opened("frames").run(inputs)["frame_features"], on_cpu(tiny_bundle, "frames", inputs))


def test_recorded_pictures_give_the_recorded_features(
    opened: Callable[[str], Backend], golden: Callable[..., Arrays]
) -> None:
    recorded = golden("stages_video", "pixels")
    frames = np.ascontiguousarray(recorded["pixels"][0].transpose(1, 0, 2, 3))
    near(opened("frames").run({"pixel_values": frames})["frame_features"], recorded["image_qformer_out"])


def test_recorded_features_give_the_recorded_embeds(
    opened: Callable[[str], Backend], golden: Callable[..., Arrays], tiny: Bundle
) -> None:
    recorded = golden("stages_video")
    features = recorded["image_qformer_out"]
    inputs = {"frame_features": features[None], "positions": tiny.positions()["video"][: len(features)]}
    near(opened("video").run(inputs)["embeds"], recorded["llama_proj_out"])


def test_recorded_sound_gives_the_recorded_features_and_embeds(
    opened: Callable[[str], Backend], golden: Callable[..., Arrays], tiny: Bundle
) -> None:
    recorded = golden("stages_audio")
    features = opened("clips").run({"fbank": np.ascontiguousarray(recorded["mel"][0])})["clip_features"]
    near(features, recorded["imagebind_final"])
    inputs = {"clip_features": features[None], "positions": tiny.positions()["audio"][: len(features)]}
    near(opened("audio").run(inputs)["embeds"], recorded["audio_llama_proj_out"])


def test_video_of_many_pictures_gives_the_embeds_of_fp32(
    opened: Callable[[str], Backend], tiny: Bundle, tiny_bundle: Path
) -> None:
    video = tiny.spec.video
    width = video.qformer.hidden_size
    inputs = {
        "frame_features": RNG.standard_normal((1, 64, video.qformer.query_tokens, width)).astype(np.float32),
        "positions": RNG.standard_normal((64, width)).astype(np.float32),
    }
    near(opened("video").run(inputs)["embeds"], on_cpu(tiny_bundle, "video", inputs))


def test_repeated_runs_give_the_same_bits(opened: Callable[[str], Backend], tiny: Bundle) -> None:
    backend, inputs = opened("frames"), {"pixel_values": pixels(tiny, 2)}
    first = backend.run(inputs)["frame_features"]
    backend.run({"pixel_values": pixels(tiny, 8)})  # its buffers grow, and another profile is chosen
    for _ in range(3):
        np.testing.assert_array_equal(backend.run(inputs)["frame_features"], first)


def test_threads_share_a_graph(opened: Callable[[str], Backend], tiny: Bundle) -> None:
    backend = opened("frames")
    inputs = [{"pixel_values": pixels(tiny, 1)} for _ in range(4)]
    alone = [backend.run(each)["frame_features"] for each in inputs]
    found: dict[int, np.ndarray] = {}

    def ask(number: int) -> None:
        for _ in range(5):
            found[number] = backend.run(inputs[number])["frame_features"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, each in enumerate(alone):
        near(found[number], each)


def test_input_that_does_not_fit_is_refused_and_a_closed_graph_says_so(
    opened: Callable[[str], Backend], tiny: Bundle
) -> None:
    backend = opened("frames")
    for wrong in ({}, {"pixel_values": np.zeros((1, 3, 5, 5), np.float32)}):
        with pytest.raises(ShapeError, match="frames"):
            backend.run(wrong)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="was closed"):
        backend.run({"pixel_values": pixels(tiny, 1)})
