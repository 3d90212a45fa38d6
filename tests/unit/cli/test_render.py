from __future__ import annotations

from dataclasses import replace

import pytest

from vllama.cli.render import encoding_bar, evidence_line, live_evidence_line
from vllama.runtime import Timeline, Usage
from vllama.runtime.spec import ModelSpec

_USAGE = Usage("m", "", (), 1, 1, 0, 0.0, 0.0, 0.0, 0.0, (0.0, 1.25), ((0.0, 2.0), (2.0, 4.0)), 0, "stop")


def _timeline(kind: str, sound: bool = True) -> Timeline:
    return Timeline("", "", kind, 2, 4.0, 1.0, sound)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "sound", "usage", "audio", "line"),
    [
        ("video", True, _USAGE, True, "saw 2 frames at 0.0 1.2 s; heard 0.0-2.0 2.0-4.0 s"),
        ("video", True, replace(_USAGE, frame_times=(0.5,)), True, "saw 1 frame at 0.5 s; heard 0.0-2.0 2.0-4.0 s"),
        ("audio", True, replace(_USAGE, frame_times=()), True, "saw nothing: a sound file; heard 0.0-2.0 2.0-4.0 s"),
        (
            "video", True, replace(_USAGE, audio_spans=((0.0, 2.0), (0.96, 3.0), (1.0, 3.0), (1.04, 3.04), (2.0, 4.0))),
            True, "saw 2 frames at 0.0 1.2 s; heard 0.0-2.0 1.0-3.0 2.0-4.0 s",
        ),
        ("image", False, replace(_USAGE, audio_spans=()), True, "saw the picture"),
        ("video", True, replace(_USAGE, audio_spans=()), False, "saw 2 frames at 0.0 1.2 s; heard nothing: --no-audio"),
        (
            "video", False, replace(_USAGE, audio_spans=()), True,
            "saw 2 frames at 0.0 1.2 s; heard nothing: the clip has no audio track",
        ),
        (
            "video", True, replace(_USAGE, audio_spans=()), True,
            "saw 2 frames at 0.0 1.2 s; heard nothing: there is no sound in that stretch",
        ),
    ],
)  # fmt: skip
def test_evidence_says_what_was_used_or_why_not(
    vicuna_spec: ModelSpec, kind: str, sound: bool, usage: Usage, audio: bool, line: str
) -> None:
    assert evidence_line(usage, _timeline(kind, sound), vicuna_spec, audio=audio) == line


def test_evidence_of_a_model_that_cannot_hear_says_so(vicuna_spec: ModelSpec) -> None:
    usage, deaf = replace(_USAGE, audio_spans=()), replace(vicuna_spec, audio=None)
    line = "saw 2 frames at 0.0 1.2 s; heard nothing: tiny-vicuna has no audio branch"
    assert evidence_line(usage, _timeline("video", True), deaf, audio=True) == line


@pytest.mark.parametrize(
    ("usage", "line"),
    [
        (_USAGE, "saw 2 frames, <0> to <1>; heard <0> to <4>"),
        (
            replace(_USAGE, audio_spans=((0.0, 2.0), (5.0, 7.0), (6.0, 8.0))),
            "saw 2 frames, <0> to <1>; heard 2 stretches, <0> to <8>",
        ),
        (replace(_USAGE, frame_times=(1.0,), audio_spans=()), "saw 1 frame at <1>; heard nothing"),
        (replace(_USAGE, frame_times=()), "saw nothing; heard <0> to <4>"),
        (
            replace(_USAGE, long="memory", frames_seen=90),
            "remembered 90 frames as 2 frames, <0> to <1>; heard <0> to <4>",
        ),
    ],
)  # fmt: skip
def test_live_evidence_is_said_in_times_of_day(usage: Usage, line: str) -> None:
    assert live_evidence_line(usage, lambda second: f"<{int(second)}>") == line


def test_a_bar_is_shown_once_there_is_something_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    with encoding_bar():
        pass
    assert "encoding" not in capsys.readouterr().err
    with encoding_bar() as step:
        step(3, 8)
    shown = capsys.readouterr().err
    assert "encoding" in shown
    assert "3/8" in shown
    assert "0/?" not in shown
