from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.live.waiting import until
from vllama.cli import command
from vllama.cli.command import Command
from vllama.runtime import SpecError


def python(code: str) -> str:
    return f'"{sys.executable}" -c "{code}"'


def test_a_command_runs_with_the_variables_and_without_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "a $HOME; b"
    notes: list[str] = []
    with Command(python(f"import os; open({str(path)!r}, 'w').write(os.environ['VLLAMA_STATE'])"), notes.append) as run:
        run.start({"VLLAMA_STATE": "on"})
        until(path.exists)
    assert (path.read_text(), notes) == ("on", [])


def test_what_fails_is_said() -> None:
    notes: list[str] = []
    with Command(python("raise SystemExit(7)"), notes.append) as run:
        run.start({})

        def is_said() -> bool:
            run.look()
            return bool(notes)

        until(is_said)
    with Command("no-such-program-at-all", notes.append) as run:
        run.start({})
    assert "ended with 7; the watch goes on" in notes[0]
    assert "no-such-program-at-all cannot be run" in notes[1]


def test_only_so_many_run_at_once_and_none_is_left_behind() -> None:
    notes: list[str] = []
    run = Command(python("import time; time.sleep(60)"), notes.append)
    for _ in range(6):
        run.start({})
    processes: list[subprocess.Popen[bytes]] = list(run._running)
    assert (len(processes), len(notes)) == (4, 2)
    assert "4 of it are still running" in notes[0]
    begun = time.monotonic()
    run.close()
    assert time.monotonic() - begun < 20.0
    assert all(process.poll() is not None for process in processes)


def test_without_a_command_nothing_happens() -> None:
    with Command(None, lambda text: pytest.fail(text)) as run:
        run.start({})
        run.look()


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_command_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is empty"):
        Command(text, lambda note: None)


@pytest.mark.skipif(sys.platform == "win32", reason="nothing can be ignored there")
def test_one_that_does_not_end_when_told_to_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_LEAVE_SECONDS", 0.0)
    monkeypatch.setattr(command, "_END_SECONDS", 0.1)
    ready = tmp_path / "ready"
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    run = Command(python(f"{ignore}open({str(ready)!r}, 'w'); time.sleep(20)"), lambda text: None)
    run.start({})
    (process,) = run._running
    until(ready.exists)
    begun = time.monotonic()
    run.close()
    assert time.monotonic() - begun < 10.0
    assert process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform == "win32", reason="starts a shell")
@pytest.mark.parametrize("child", ["sleep 30", '(trap "" TERM; sleep 30)'])
def test_what_it_started_itself_ends_with_it(child: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_LEAVE_SECONDS", 0.0)
    monkeypatch.setattr(command, "_END_SECONDS", 0.1)
    path = tmp_path / "child"
    run = Command(f"sh -c '{child} & echo $! > {path}.part; mv {path}.part {path}; wait'", lambda text: None)
    run.start({})
    until(path.exists)
    begun = time.monotonic()
    run.close()
    until(lambda: not lives(int(path.read_text())))
    assert time.monotonic() - begun < 10.0


def lives(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
