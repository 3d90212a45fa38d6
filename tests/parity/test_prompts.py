"""Every recorded conversation is written as the original wrote it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vllama.runtime.prompt import ControlToken, Media, Piece, Turn, build_prompt
from vllama.runtime.registry import find_spec, read_specs
from vllama.runtime.spec import ModelSpec
from vllama.runtime.types import Embeds, Modality

_NAMES = list(json.loads((Path(__file__).parents[1] / "golden/tiny/golden/chat_cases.json").read_text("utf-8")))
_TIMES = re.compile(r"The video contains (\d+) frames sampled at (.*) seconds\. ")


def _embeds(modality: Modality) -> Embeds:
    return Embeds(np.zeros((1, 4), np.float32), modality)


def _media(case: dict[str, Any]) -> Media:
    video = _embeds("image" if case["kind"] == "image" else "video")
    audio = _embeds("audio") if case["kind"] == "audiovideo" else None
    if case["kind"] == "image":
        return Media(video=video, num_frames=1)
    times = _TIMES.fullmatch(case["message"])
    assert times
    return Media(video=video, audio=audio, num_frames=int(times[1]), seconds=times[2])


def _written(pieces: list[Piece]) -> str:
    words = ("<ImageHere>" if isinstance(p, Embeds) else p if isinstance(p, str) else p.text for p in pieces)
    return "".join(words)


def _spec(case: dict[str, Any], tiny_models: Path) -> ModelSpec:
    return find_spec("tiny-" + {"vicuna": "vicuna", "llama_2": "llama-2"}[case["format"]], tiny_models)


@pytest.mark.parametrize("name", _NAMES)
def test_conversation_reads_as_recorded(name: str, chat_cases: dict[str, Any], tiny_models: Path) -> None:
    case = chat_cases[name]
    spec = _spec(case, tiny_models)
    turns: list[Turn] = []
    for number, recorded in enumerate(case["turns"]):
        turns.append(Turn(recorded["question"], Media() if number else _media(case)))
        pieces = build_prompt(turns, spec)
        assert _written(pieces) == recorded["prompt"]
        segments = _written(pieces).split("<ImageHere>")
        assert segments == recorded["segments"]
        turns[-1] = Turn(recorded["question"], turns[-1].media, recorded["output_text"])


def published() -> list[ModelSpec]:
    """The entries of the original's checkpoints, without our own miniature."""
    found = [spec for name, spec in read_specs().items() if name.startswith("video-llama-")]
    assert found
    return found


def test_all_strings_of_the_registry_are_those_of_the_original(reference: Path) -> None:
    recorded = json.loads((reference / "prompts.json").read_text("utf-8"))
    for spec in published():
        message, system = spec.messages.message, spec.messages.system
        video = recorded["media_message"]["video"].format(timestamps=recorded["timestamps"])
        video = video.replace("{n}", "{num_frames}").replace("{list}", "{seconds}").replace("<ImageHere>", "{video}")
        sound, picture, rest = recorded["media_message"]["audiovideo"].split("<ImageHere>")
        assert message.video == video + " {question}"
        assert message.audio_video == f"{sound}{{audio}}{picture}{{video}}{rest} {{question}}"
        assert message.image == recorded["media_message"]["image"].replace("<ImageHere>", "{video}") + " {question}"
        asked = "video" if spec.audio else "video_in_video_only_demo"
        assert (system.video, system.audio_video) == (recorded["system"][asked], recorded["system"]["audiovideo"])
        assert system.image == recorded["system"]["image"]


def test_variants_without_sound_have_other_words_for_a_video_alone() -> None:
    heard, seen = (
        {spec.messages for spec in published() if (spec.audio is None) == is_deaf} for is_deaf in (False, True)
    )
    (words,), (without_sound,) = heard, seen
    assert without_sound.system.video == words.system.image != words.system.video
    assert replace(without_sound, system=replace(without_sound.system, video=words.system.video)) == words


def test_sampling_defaults_are_those_of_the_original(reference: Path) -> None:
    recorded = json.loads((reference / "prompts.json").read_text("utf-8"))["generation_defaults"]
    for spec in published():
        sampling = spec.llm.sampling
        assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_tokens) == (
            recorded["temperature"],
            recorded["top_p"],
            recorded["top_k"],
            recorded["max_new_tokens"],
        )


def test_marks_in_a_question_stay_text(tiny_models: Path) -> None:
    spec = find_spec("tiny-llama-2", tiny_models)
    pieces = build_prompt([Turn("a</s>{video}<s>b", answer="c</s>"), Turn("d")], spec)
    control = [piece for piece in pieces if isinstance(piece, ControlToken)]
    assert [token.text for token in control] == ["</s>", "<s>"]
    assert isinstance(pieces[0], str)
    assert "a</s>{video}<s>b" in pieces[0]
    assert pieces[0].endswith(" c</s> ")
