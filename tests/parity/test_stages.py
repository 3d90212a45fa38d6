"""Every stage of the encoders against the recorded original: inside the torch modules, and through the ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from torch import nn

from vllama.export.checkpoint import build_graph, position_tables, read_parts
from vllama.export.eva_vit import resize_positions
from vllama.export.graphs import Graph
from vllama.runtime.backend import open_backend
from vllama.runtime.bundle import POSITIONS
from vllama.runtime.media import probe, read_frames
from vllama.runtime.pixels import pixel_values
from vllama.runtime.spec import ModelSpec
from vllama.runtime.types import Frame

Golden = dict[str, np.ndarray]
ATOL = {
    "pixels": 1e-6, "vit_patch_embed": 1e-4, "vit_out": 1e-4, "ln_vision_out": 5e-5, "image_qformer_out": 5e-5,
    "video_qformer_out": 5e-5, "llama_proj_out": 5e-5, "audio_tokens_in": 5e-5, "audio_trunk_out": 1e-4,
    "imagebind_feature": 5e-5, "imagebind_final": 2e-4, "audio_qformer_out": 5e-5, "audio_llama_proj_out": 5e-5,
}  # fmt: skip


@pytest.fixture(scope="module")
def modules(vicuna_spec: ModelSpec, tiny_weights: Path) -> dict[str, Graph]:
    return {part.name: build_graph(part, vicuna_spec) for part in read_parts(vicuna_spec, tiny_weights)}


@pytest.fixture(scope="module")
def positions(vicuna_spec: ModelSpec, tiny_weights: Path) -> Golden:
    return position_tables(read_parts(vicuna_spec, tiny_weights))


@pytest.fixture(scope="module")
def run(tiny_bundle: Path) -> Callable[..., np.ndarray]:
    """Run one graph of the exported bundle and give its only output."""

    def run(name: str, **inputs: np.ndarray) -> np.ndarray:
        backend = open_backend(tiny_bundle / f"{name}.onnx")
        (output,) = backend.run(
            {key: np.ascontiguousarray(array, np.float32) for key, array in inputs.items()}
        ).values()
        backend.close()
        return output

    return run


def test_pixels_of_frames_are_those_of_the_original(golden: Callable[..., Golden], vicuna_spec: ModelSpec) -> None:
    recorded = golden("stages_video", "pixels")
    frames = [Frame(number, 0.0, pixels) for number, pixels in enumerate(recorded["frames_u8"])]
    close("pixels", pixel_values(frames, vicuna_spec.video), planes(recorded["pixels"]))


def test_pixels_of_a_picture_are_those_of_the_original(
    golden: Callable[..., Golden], vicuna_spec: ModelSpec, tmp_path: Path
) -> None:
    recorded = golden("stages_image", "pixels")
    Image.fromarray(recorded["image_u8"]).save(tmp_path / "picture.png")
    frames = list(read_frames(probe(tmp_path / "picture.png"), [0], vicuna_spec.video.image_size))
    close("pixels", pixel_values(frames, vicuna_spec.video), planes(recorded["pixels"]))


@pytest.mark.parametrize("stages", ["stages_video", "stages_image"])
def test_picture_stages_in_torch(
    stages: str, modules: dict[str, Graph], golden: Callable[..., Golden], positions: Golden
) -> None:
    recorded = golden(stages, "pixels")
    frames, video = modules["frames"], modules["video"]
    count = len(recorded["vit_out"])
    blocks = frames.get_submodule("visual_encoder.blocks").children()
    kept = seen(
        frames,
        {
            "vit_patch_embed": frames.get_submodule("visual_encoder.patch_embed"),
            **{f"vit_block{number}": block for number, block in enumerate(blocks)},
            "vit_out": frames.get_submodule("visual_encoder"),
            "ln_vision_out": frames.get_submodule("ln_vision"),
            "image_qformer_out": frames,
        },
        planes(recorded["pixels"]),
    )
    kept |= seen(
        video,
        {"video_qformer_out": video.get_submodule("video_Qformer"), "llama_proj_out": video},
        kept["image_qformer_out"][None],
        positions["video"][:count],
    )
    for name, array in kept.items():
        close(name, array, recorded[name])
    cross = kept["image_qformer_out"] + positions["video"][:count, None]
    np.testing.assert_allclose(
        cross.reshape(recorded["video_qformer_kv"].shape), recorded["video_qformer_kv"], atol=5e-5
    )


def test_sound_stages_in_torch(modules: dict[str, Graph], golden: Callable[..., Golden], positions: Golden) -> None:
    recorded = golden("stages_audio")
    clips, audio = modules["clips"], modules["audio"]
    trunk = clips.get_submodule("modality_trunks.audio")
    kept = seen(
        clips,
        {
            "audio_tokens_in": clips.get_submodule("modality_preprocessors.audio"),
            **{
                f"audio_block{number}_lbd": block
                for number, block in enumerate(trunk.get_submodule("blocks").children())
            },
            "audio_trunk_out": trunk,
            "imagebind_feature": clips.get_submodule("modality_heads.audio.1"),
            "imagebind_final": clips,
        },
        recorded["mel"][0],
    )
    count = len(kept["imagebind_final"])
    kept |= seen(
        audio,
        {"audio_qformer_out": audio.get_submodule("audio_Qformer"), "audio_llama_proj_out": audio},
        kept["imagebind_final"][None],
        positions["audio"][:count],
    )
    for name, array in kept.items():
        wanted = recorded[name]
        if name.endswith("_lbd"):
            wanted = wanted.transpose(1, 0, 2)
        close(name, array, wanted)


@pytest.mark.parametrize("stages", ["stages_video", "stages_image"])
def test_picture_graphs_give_the_recorded_features_and_embeds(
    stages: str, golden: Callable[..., Golden], run: Callable[..., np.ndarray], positions: Golden
) -> None:
    recorded = golden(stages, "pixels")
    features = run("frames", pixel_values=planes(recorded["pixels"]))
    close("image_qformer_out", features, recorded["image_qformer_out"])
    embeds = run("video", frame_features=features[None], positions=positions["video"][: len(features)])
    close("llama_proj_out", embeds, recorded["llama_proj_out"])


@pytest.mark.parametrize("stages", ["stages_video", "stages_image"])
def test_video_graph_gives_the_recorded_embeds_of_recorded_features(
    stages: str, golden: Callable[..., Golden], run: Callable[..., np.ndarray], positions: Golden
) -> None:
    recorded = golden(stages)
    features = recorded["image_qformer_out"]
    embeds = run("video", frame_features=features[None], positions=positions["video"][: len(features)])
    close("llama_proj_out", embeds, recorded["llama_proj_out"])


def test_sound_graphs_give_the_recorded_features_and_embeds(
    golden: Callable[..., Golden], run: Callable[..., np.ndarray], positions: Golden
) -> None:
    recorded = golden("stages_audio")
    features = run("clips", fbank=recorded["mel"][0])
    close("imagebind_final", features[None], recorded["imagebind_final"])
    embeds = run("audio", clip_features=features[None], positions=positions["audio"][: len(features)])
    close("audio_llama_proj_out", embeds, recorded["audio_llama_proj_out"])


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_frame_has_the_same_features_alone_and_among_others(
    count: int, run: Callable[..., np.ndarray], tiny_bundle: Path, vicuna_spec: ModelSpec
) -> None:
    size = vicuna_spec.video.image_size
    pixels = np.random.default_rng(0).standard_normal((8, 3, size, size)).astype(np.float32)
    together = run("frames", pixel_values=pixels)[:count]
    alone = np.concatenate([run("frames", pixel_values=pixels[number : number + 1]) for number in range(count)])
    np.testing.assert_allclose(together, alone, atol=5e-5)


def test_positions_of_the_bundle_are_those_of_the_checkpoints(tiny_bundle: Path, positions: Golden) -> None:
    stored = load_file(tiny_bundle / POSITIONS)
    assert stored.keys() == positions.keys() == {"video", "audio"}
    for name, table in positions.items():
        np.testing.assert_array_equal(stored[name], table)


def test_position_tables_of_another_grid_are_resized_as_recorded(golden: Callable[..., Golden]) -> None:
    recorded = golden("pos_embed_interp")
    grids = [name.removeprefix("in_") for name in recorded if name.startswith("in_")]
    assert grids
    for grid in grids:
        wanted = recorded[f"out_{grid}"]
        resized = resize_positions(torch.from_numpy(recorded[f"in_{grid}"]), wanted.shape[1] - 1)
        np.testing.assert_allclose(resized.numpy(), wanted, atol=1e-5)


def planes(pixels: np.ndarray) -> np.ndarray:
    """(1, 3, T, H, W) of a video or (3, H, W) of a picture -> (T, 3, H, W)."""
    return pixels[0].transpose(1, 0, 2, 3) if pixels.ndim == 5 else pixels[None]


def seen(graph: Graph, stages: dict[str, nn.Module], *inputs: np.ndarray) -> Golden:
    """What comes out of each of those modules while the graph runs."""
    kept: Golden = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, arguments, output: kept.__setitem__(name, output.numpy())

    handles = [module.register_forward_hook(keep(name)) for name, module in stages.items()]
    with torch.no_grad():
        graph(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs))
    for handle in handles:
        handle.remove()
    return kept


def close(name: str, found: np.ndarray, recorded: np.ndarray) -> None:
    np.testing.assert_allclose(found.reshape(recorded.shape), recorded, atol=ATOL.get(name, 1e-4), rtol=0, err_msg=name)
