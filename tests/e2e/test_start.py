"""What a question loads and opens, and what it leaves alone: the time until its first token is made of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vllama.runtime import Engine
from vllama.runtime.bundle import shipped_bundle

_ASK = """
import json, sys
from vllama.cli.app import main
sys.argv = ["vllama", *{arguments!r}]
try:
    main()
except SystemExit:
    pass
print(json.dumps(sorted(sys.modules)))
"""
_NEEDLESS = {
    "PIL.ImageDraw", "cv2", "faster_whisper", "prompt_toolkit", "rich.markdown", "sounddevice", "torch",
    "vllama.cli.bench", "vllama.cli.chat", "vllama.cli.demo", "vllama.cli.eval", "vllama.cli.live", "vllama.cli.watch",
}  # fmt: skip


def test_question_about_a_saved_timeline_opens_the_two_small_graphs_alone(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLAMA_CACHE", str(tmp_path))
    with Engine.open(shipped_bundle(), device="cpu", threads=1, answers=False) as engine:
        engine.index(clip, fps=0.0)
        assert set(engine._encoders._open) == {"frames", "clips"}
    with Engine.open(shipped_bundle(), device="cpu", threads=1) as engine:
        timeline = engine.index(clip, fps=0.0)
        assert timeline.encoded == 0
        assert not engine._encoders._open
        *_, last = engine.chat(timeline).ask("What do you see and hear?")
        assert last.usage is not None
        assert last.usage.frame_times
        assert last.usage.audio_spans
        assert set(engine._encoders._open) == {"video", "audio"}


def test_ask_loads_no_other_command_and_nothing_of_theirs(clip: Path, tmp_path: Path) -> None:
    arguments = ["ask", str(clip), "What?", "--model", str(shipped_bundle()), "-n", "1", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-c", _ASK.format(arguments=arguments)], capture_output=True, text=True, check=True
    )
    assert set(json.loads(done.stdout.splitlines()[-1])) & _NEEDLESS == set()


def test_every_command_is_listed_and_a_slip_is_told_the_nearest(vllama: Callable) -> None:
    shown = vllama("--help").stdout
    for name in ("ask", "bench", "chat", "demo", "devices", "eval", "export", "index", "plan", "replay", "watch"):
        assert f"│ {name} " in shown
    slip = vllama("aks", "clip.mp4")
    assert (slip.returncode, "Did you mean 'ask'" in slip.stderr) == (2, True)
