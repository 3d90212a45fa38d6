"""Pictures and sound on their way to the encoders, against the recorded original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vllama.runtime.fbank import clip_bounds, clip_fbanks
from vllama.runtime.media import probe, read_frames
from vllama.runtime.pixels import frame_indices, timestamps
from vllama.runtime.registry import find_spec
from vllama.runtime.resample import Resampler
from vllama.runtime.sound import count_samples, read_samples
from vllama.runtime.spec import AudioSpec
from vllama.runtime.types import Samples

CLIPS = ["boat", "dog_barking", "silence_girl"]
MEL_ATOL, MEL_MEAN, WAVEFORM_ATOL, AAC_ATOL = 1e-3, 1e-5, 2e-5, 1e-4


def test_every_recorded_sampling_has_its_pictures_and_its_message(reference: Path) -> None:
    rows = json.loads((reference / "preprocessing" / "frame_sampling.json").read_text("utf-8"))
    rows = [row for row in rows if row["sampling"] == "uniform"]
    assert len(rows) > 20
    message = find_spec("video-llama-2-7b-chat").messages.message.video
    for row in rows:
        indices = frame_indices(row["n_frames_asked"], row["video_length"])
        wanted = row["indices"][: len(indices)] if row["float_artefact"] else row["indices"]
        assert indices == wanted, row
        if not row["float_artefact"]:
            seconds = timestamps(indices, row["fps"])
            assert row["message"] in message.format(video="", num_frames=len(indices), seconds=seconds, question="")


@pytest.mark.parametrize("case", range(4))
def test_filterbanks_of_synthetic_sound_are_the_recorded_ones(case: int, reference: Path, audio: AudioSpec) -> None:
    row = json.loads((reference / "preprocessing" / "mel_synthetic.json").read_text("utf-8"))[case]
    with np.load(reference / "preprocessing" / "mel_synthetic.npz") as arrays:
        recorded = {
            name.removeprefix(f"case{case}_"): arrays[name] for name in arrays if name.startswith(f"case{case}_")
        }
    whole = resampled(recorded["waveform"], row["sample_rate"], audio)
    if row["sample_rate"] != audio.sample_rate:
        np.testing.assert_allclose(whole, recorded["resampled_16k"], atol=WAVEFORM_ATOL)
    assert whole.shape[1] == row["n_samples_16k"]
    bounds = clip_bounds(whole.shape[1], replaced(audio, num_clips=row["clips"]))
    assert bounds == [(first, min(last, whole.shape[1])) for first, last in row["clip_start_end_samples"]]
    clips = [Samples(first / audio.sample_rate, whole[:, first:last], audio.sample_rate) for first, last in bounds]
    close(np.stack(clip_fbanks(clips, audio)), recorded["mel"])


@pytest.mark.parametrize("name", CLIPS)
def test_pictures_of_real_clips_are_the_recorded_ones_bit_for_bit(name: str, clips: Path, clips_golden: Path) -> None:
    recorded: dict[str, Any] = json.loads((clips_golden / f"{name}.json").read_text("utf-8"))
    info = probe(clips / f"{name}.mp4")
    assert (len(info.frame_times), info.frame_rate) == (recorded["decoded_frame_count"], recorded["avg_fps"])
    indices = frame_indices(recorded["n_frames"], len(info.frame_times))
    assert indices == recorded["indices"]
    assert timestamps(indices, info.frame_rate) == ", ".join(str(time) for time in recorded["timestamps"])
    frames = list(read_frames(info, indices, 224))
    with np.load(clips_golden / f"{name}.npz") as arrays:
        np.testing.assert_array_equal(np.stack([frame.pixels for frame in frames]), arrays["frames_u8"])


@pytest.mark.parametrize("name", CLIPS)
def test_sound_of_real_clips_is_the_recorded_one(name: str, clips: Path, clips_golden: Path, audio: AudioSpec) -> None:
    recorded = json.loads((clips_golden / f"{name}.json").read_text("utf-8"))["audio"]
    info = probe(clips / f"{name}.mp4")
    assert info.has_audio == bool(recorded)
    if not recorded:
        return
    count = count_samples(info, audio.sample_rate)
    assert count == recorded["n_samples_16k"]
    bounds = clip_bounds(count, audio)
    assert bounds == [tuple(bound) for bound in recorded["clip_start_end_samples_16k"]]
    (whole,) = read_samples(info, [(0, count)], audio.sample_rate)
    clip_samples = list(read_samples(info, bounds, audio.sample_rate))
    with np.load(clips_golden / f"{name}.npz") as arrays:
        np.testing.assert_allclose(whole.data, arrays["waveform_16k"], atol=AAC_ATOL)
        close(np.stack(clip_fbanks(clip_samples, audio)), arrays["mel"])
    for (first, last), samples in zip(bounds, clip_samples, strict=True):
        np.testing.assert_array_equal(samples.data, whole.data[:, first:last])


def resampled(waveform: np.ndarray, rate: int, audio: AudioSpec) -> np.ndarray:
    """In pieces of odd sizes, as a decoder hands them over."""
    resampler = Resampler(rate, audio.sample_rate)
    pieces = [resampler.push(waveform[:, start : start + 1021]) for start in range(0, waveform.shape[1], 1021)]
    return np.concatenate([*pieces, resampler.finish()], 1)


def replaced(audio: AudioSpec, **fields: Any) -> AudioSpec:
    from dataclasses import replace

    return replace(audio, **fields)


def close(mel: np.ndarray, recorded: np.ndarray) -> None:
    assert mel.shape == recorded.reshape(mel.shape).shape
    error = np.abs(mel - recorded.reshape(mel.shape))
    assert error.max() < MEL_ATOL, np.unravel_index(error.argmax(), error.shape)
    assert error.mean() < MEL_MEAN
