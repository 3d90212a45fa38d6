"""`vllama ask` on the clip of the recordings says what the original said, token for token."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Golden, Vllama

_CASES = json.loads((Path(__file__).parents[1] / "golden/tiny/golden/chat_cases.json").read_text("utf-8"))
_BUNDLE = {"vicuna": "tiny-vicuna", "llama_2": "tiny-llama-2"}


@pytest.mark.parametrize("name", [name for name in _CASES if "cropped" not in name])
def test_answers_equal_the_recorded_ones(
    name: str,
    chat_cases: dict[str, Any],
    clips: Path,
    golden: Callable[..., Golden],
    export_tiny: Callable[..., Path],
    vllama: Vllama,
    tmp_path: Path,
) -> None:
    case = chat_cases[name]
    if case["kind"] == "image":
        clip = tmp_path / "picture.png"
        Image.fromarray(golden("stages_image", "image_u8")["image_u8"]).save(clip)
    else:
        clip = clips / case["clip"]
    questions = [turn["question"] for turn in case["turns"]]
    options = ["--model", export_tiny(_BUNDLE[case["format"]]), "--temperature", 0, "-n", 24, "--json"]
    done = vllama("ask", clip, *questions, *options, *(["--no-audio"] * (case["kind"] == "video")))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row, turn in zip(rows, case["turns"], strict=True):
        # The original compares the last ids with those of "###" in the full vocabulary and so went on to 24 tokens;
        # vllama ends where the text says "###", however it was spelled.
        wanted = turn["output_ids"]
        assert row["token_ids"] == (wanted[: len(row["token_ids"])] if row["finish"] == "stop" else wanted)
        assert row["finish"] == ("stop" if len(row["token_ids"]) < 24 else "length")
    assert [row["answer"] for row in rows] == [turn["output_text"] for turn in case["turns"]]
    sizes = [golden(f"chat_{name}")[f"turn{i}_inputs_embeds"].shape[1] for i in range(len(rows))]
    assert [row["prompt_tokens"] for row in rows] == sizes
    if len(rows) == 2:
        assert rows[1]["prefilled_tokens"] < sizes[1] - sizes[0] + 24 + 2  # the first turn was still in the KV cache


def test_evidence_is_that_of_the_recording(clips: Path, clips_golden: Path, tiny_bundle: Path, vllama: Vllama) -> None:
    films = sorted(clips.glob("*.mp4"))
    assert films
    for clip in films:
        recorded = json.loads((clips_golden / f"{clip.stem}.json").read_text("utf-8"))
        done = vllama("ask", clip, "What?", "--model", tiny_bundle, "-n", 4, "--json")
        assert done.returncode == 0, done.stderr
        row = json.loads(done.stdout)
        np.testing.assert_allclose(row["frame_times"], recorded["timestamps"], atol=0.051)
        assert bool(row["audio_spans"]) == bool(recorded["audio"])
