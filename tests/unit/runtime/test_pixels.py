from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vllama.runtime.errors import ShapeError
from vllama.runtime.pixels import frame_indices, pixel_values, timestamps
from vllama.runtime.registry import find_spec
from vllama.runtime.spec import VideoSpec
from vllama.runtime.types import Frame


@pytest.fixture
def video() -> VideoSpec:
    return find_spec("video-llama-2-7b-chat").video


@pytest.mark.parametrize(
    ("count", "length", "wanted"),
    [
        (8, 0, []),
        (8, 1, [0]),
        (8, 3, [0, 1, 2]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (8, 9, [0, 1, 2, 3, 4, 5, 6, 7]),
        (8, 100, [0, 12, 25, 37, 50, 62, 75, 87]),
        (1, 100, [0]),
    ],
)
def test_pictures_are_evenly_spaced_and_never_more_than_there_are(count: int, length: int, wanted: list[int]) -> None:
    assert frame_indices(count, length) == wanted


def test_there_are_as_many_indices_as_asked_for_and_all_are_in_range() -> None:
    for count in range(1, 40):
        for length in range(1, 200):
            indices = frame_indices(count, length)
            assert len(indices) == min(count, length), (count, length)
            assert indices == sorted(set(indices)), (count, length)
            assert 0 <= indices[0] <= indices[-1] < length, (count, length)


def test_times_are_written_as_upstream_writes_them() -> None:
    assert timestamps([0, 27, 54], 29.97) == "0.0, 0.9, 1.8"
    assert timestamps([], 25.0) == ""
    assert timestamps([7], 25.0) == "0.3"


def test_pixels_are_scaled_and_normalised_per_channel(video: VideoSpec) -> None:
    size = video.image_size
    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[0, 1] = (255, 128, 0)
    values = pixel_values([Frame(0, 0.0, pixels), Frame(1, 0.1, pixels)], video)
    assert (values.shape, values.dtype.name) == ((2, 3, size, size), "float32")
    assert values.flags.c_contiguous
    mean, std = np.array(video.normalise.mean), np.array(video.normalise.std)
    np.testing.assert_allclose(values[1, :, 0, 1], (np.array([1.0, 128 / 255, 0.0]) - mean) / std, rtol=1e-6)
    np.testing.assert_allclose(values[0, :, 1, 0], -mean / std, rtol=1e-6)


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (np.zeros((5, 5, 3), np.uint8), "uint8 (5, 5, 3)"),
        (np.zeros((224, 224, 4), np.uint8), "uint8 (224, 224, 4)"),
        (np.zeros((224, 224), np.uint8), "uint8 (224, 224)"),
        (np.zeros((224, 224, 3), np.float32), "float32 (224, 224, 3)"),
        ([[0, 0, 0]], "list"),
    ],
)
def test_pixels_of_another_kind_are_refused(video: VideoSpec, pixels: Any, kind: str) -> None:
    right = np.zeros((224, 224, 3), np.uint8)
    with pytest.raises(ShapeError) as error:
        pixel_values([Frame(0, 0.0, right), Frame(1, 0.1, pixels)], video)
    assert str(error.value) == f"a picture is {kind} and the encoder takes uint8 (224, 224, 3), RGB; stretch it to that"
    with pytest.raises(ShapeError, match="there is no picture to encode"):
        pixel_values([], video)
