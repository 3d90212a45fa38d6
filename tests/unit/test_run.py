"""What `.dev/run.py` installs for what is asked of it, and how it runs that."""

from __future__ import annotations

import ast
import importlib.util
import os
import platform
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

_ROOT = Path(__file__).parents[2]
_RUN = _ROOT / ".dev" / "run.py"
_SLOW = f"""#!{sys.executable}
import sys, time
try:
    print("begun", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.4)
    print("cleaned up", flush=True)
    sys.exit(7)
"""
_CALL = """
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("dev_run", sys.argv[1])
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)
run.BIN = pathlib.Path(sys.argv[2])
sys.exit(run.run(sys.argv[3]))
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("VLLAMA_ENGINE", "VLLAMA_SPEECH_MODEL"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("dev_run", _RUN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ("export m --engine tensorrt", ["export", "rtx"]),
        ("export --help", []),
        ("ask clip.mp4 What? --engine=tensorrt", ["rtx"]),
        ("ask clip.mp4 tensorrt", []),
        ("ask clip.mp4 tensorrt --engine onnx", []),
        ("ask clip.mp4 --engine", []),
        ("ask --speech export", []),
        ("eval", ["export"]),
        ("eval --json --set mini", ["export"]),
        ("eval --set=foreign", ["export"]),
        ("eval --set mine.jsonl", []),
        ("chat --video clip.mp4", []),
        ("chat --mic 0 --speech", ["speech"]),
        ("chat --mic 0 --speech-model whisper", ["speech"]),
        ("chat --mic 0 --speech-model=whisper --engine tensorrt", ["rtx", "speech"]),
    ],
)
def test_what_a_command_needs_is_installed(line: str, needed: list[str], run: ModuleType) -> None:
    assert run.extras(line.split()) == needed


def test_what_the_environment_asks_for_is_installed(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAMA_ENGINE", "tensorrt")
    monkeypatch.setenv("VLLAMA_SPEECH_MODEL", "whisper")
    assert run.extras(["ask", "clip.mp4", "What?"]) == ["rtx"]
    assert run.extras(["ask", "clip.mp4", "What?", "--engine", "onnx"]) == []
    assert run.extras(["chat", "--mic", "0"]) == ["rtx", "speech"]


@pytest.mark.parametrize("version", [(3, 8), (3, 10)])
def test_an_older_python_is_refused_in_one_line_and_makes_nothing(
    version: tuple[int, int], run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ast.parse(_RUN.read_text("utf-8"), feature_version=version)
    dotted = ".".join(map(str, version))
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(platform, "python_version", lambda: dotted)
    how = "py -3.11" if os.name == "nt" else "python3.11"
    with pytest.raises(SystemExit, match=f"^vllama needs Python 3.11 or newer, this is {dotted}; run this with {how}$"):
        run.main(["vllama", "demo"])
    assert not list(tmp_path.iterdir())


def test_a_venv_of_an_older_python_is_named_with_what_to_do(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "VENV", tmp_path)
    monkeypatch.setattr(run, "BIN", tmp_path / "bin")
    (tmp_path / "bin").mkdir()
    for name in ("pip", "pip.exe"):
        (tmp_path / "bin" / name).touch()
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.12.1\n", "utf-8")
    run.need_venv()
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.10.4\n", "utf-8")
    said = re.escape(
        f"{tmp_path} has Python 3.10.4, and vllama needs 3.11 or newer; remove it and run the same command"
    )
    with pytest.raises(SystemExit, match=f"^{said}$"):
        run.need_venv()


@pytest.mark.skipif(os.name == "nt", reason="the program is a script")
@pytest.mark.parametrize(
    ("system", "said"),
    [
        ("linux", "pip failed (7); mend what it names above and run the same command"),
        ("win32", "pip failed (7); where it found no C++ compiler: winget install "),
    ],
)
def test_a_compiler_is_blamed_only_where_none_was_looked_for(
    system: str, said: str, run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexit 7\n", "utf-8")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(run, "BIN", tmp_path)
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(SystemExit, match=f"^{re.escape(said)}") as ended:
        run.pip("install")
    assert ("compiler" in str(ended.value)) == (system == "win32")


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("darwin", "x86_64"), ("linux", "aarch64")])
def test_systems_that_have_no_tensorrt_get_nothing_of_it(system: str, machine: str) -> None:
    """The tests are installed with the extra `rtx` everywhere."""
    table = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))
    extra = [Requirement(text) for text in table["project"]["optional-dependencies"]["rtx"]]
    where = {"sys_platform": system, "platform_machine": machine}
    assert [each.name for each in extra if not each.marker or each.marker.evaluate(where)] == ["onnxruntime"]


@pytest.mark.skipif(os.name == "nt", reason="sends Ctrl-C to a group of processes")
@pytest.mark.parametrize("program", ["vllama", "pytest"])
def test_ctrl_c_leaves_a_program_the_time_it_takes(program: str, tmp_path: Path) -> None:
    (tmp_path / program).write_text(_SLOW, "utf-8")
    (tmp_path / program).chmod(0o755)
    command = [sys.executable, "-c", _CALL, str(_RUN), str(tmp_path), program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.stdout.read() == "cleaned up\n"
        assert process.wait() == 7


@pytest.mark.parametrize(
    ("release", "machine", "refused"), [("14.0", "arm64", False), ("13.7.1", "arm64", True), ("15.1", "x86_64", True)]
)
def test_a_mac_that_has_no_packages_is_refused_in_one_line(
    release: str, machine: str, refused: bool, run: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: (release, ("", "", ""), machine))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    if not refused:
        run.need_system()
        return
    with pytest.raises(SystemExit, match=rf"macOS 14 or newer on Apple silicon; this is {release} on {machine}$"):
        run.need_system()


@pytest.mark.skipif(os.name == "nt", reason="the programs are scripts")
def test_a_venv_whose_making_was_interrupted_is_made_to_the_end(
    run: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run, "BIN", tmp_path / ".venv" / "bin")
    run.BIN.mkdir(parents=True)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $* >&2\ntouch {run.BIN / 'pip'}\n", "utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    run.need_venv()
    run.need_venv()  # it is whole now
    assert capfd.readouterr().err == f"-m venv {run.VENV}\n"
    (run.BIN / "pip").unlink()
    python.write_text("#!/bin/sh\nexit 1\n", "utf-8")
    with pytest.raises(SystemExit, match=r"\.venv cannot be made \(1\); on Debian and Ubuntu: sudo apt-get install"):
        run.need_venv()


@pytest.mark.parametrize(("version", "said"), [((3, 14, 9), ""), ((3, 15, 0), "note: tested on Python 3.11 to 3.14, ")])
def test_a_python_that_nobody_has_tried_is_said(
    version: tuple[int, ...],
    said: str,
    run: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run, "BIN", tmp_path / ".venv" / "bin")
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(SystemExit, match=rf"cannot be made .* python3\.{version[1]}-venv$"):
        run.need_venv()
    assert capfd.readouterr().err.partition("this is")[0] == said
