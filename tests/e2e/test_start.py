"""What a question loads and opens, and what it leaves alone: the time until its first token is made of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Vllama
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
_INTERRUPTED = """
import signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)

from vllama.cli.__main__ import main
assert {module!r} not in sys.modules
sys.meta_path.insert(0, Interrupting())
sys.argv = ["vllama", *{arguments!r}]
main()
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


@pytest.mark.parametrize(
    "module", ["vllama.cli.app", "typer", "vllama.runtime.errors", "vllama.cli.ask", "numpy", "vllama.runtime.engine"]
)
def test_ctrl_c_is_quiet_while_modules_are_loaded(clip: Path, module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED.format(module=module, arguments=["ask", str(clip), "What?"])],
        capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("words", "said", "command"),
    [
        (("ask", "{clip}", "What?", "--long", "bogus"), "--long.*'bogus'.*'memory'", "vllama ask"),
        (("ask", "{clip}", "What?", "--top-p", "nan"), "--top-p.*'nan'", "vllama ask"),
        (("ask", "{clip}", "What?", "--temperature", "inf"), "--temperature.*inf is not a finite number", "vllama ask"),
        (("ask", "{clip}", "What?", "--ctx-size", "1"), "--ctx-size.*equal to 2: '1'", "vllama ask"),
        (("ask", "-dash.mp4"), "-d in -dash.mp4; a file of that name is ./-dash.mp4", "vllama ask"),
        (("ask", "{clip}", "--lnog", "memory"), "--lnog.*--long", "vllama ask"),
        (("ask",), "Missing argument 'clip'", "vllama ask"),
        (("aks", "{clip}"), "'aks'. Did you mean 'ask'", "vllama"),
        (("index", "show"), "Missing argument 'PATH'", "vllama index show"),
        (("index", "{clip}", "--fps", "-1"), "--fps.*'-1'", "vllama index add"),
        (("plan", "-c", "999999999999"), "--ctx-size.*1048576: '999999999999'", "vllama plan"),
    ],
)
def test_wrong_use_is_one_line_with_the_value_and_where_help_is(
    vllama: Vllama, clip: Path, words: tuple[str, ...], said: str, command: str
) -> None:
    done = vllama(*(word.format(clip=clip) for word in words))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(rf"vllama: .*{said}.*; see `{command} --help`", line), line


def test_value_of_the_environment_that_is_wrong_is_named(vllama: Vllama, clip: Path) -> None:
    done = vllama("ask", clip, "What?", env={"VLLAMA_THREADS": "foo"})
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert re.search("VLLAMA_THREADS.*'foo'; see `vllama ask --help`$", line), line


def test_every_command_is_listed_and_a_slip_is_told_the_nearest(vllama: Vllama) -> None:
    shown = vllama("--help").stdout
    for name in ("ask", "bench", "chat", "demo", "devices", "eval", "export", "index", "plan", "replay", "watch"):
        assert f"│ {name} " in shown
    slip = vllama("aks", "clip.mp4")
    assert (slip.returncode, "Did you mean 'ask'" in slip.stderr) == (2, True)
