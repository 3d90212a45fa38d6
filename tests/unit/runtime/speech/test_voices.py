from __future__ import annotations

import os
from pathlib import Path

import pytest

from vllama.runtime.speech.voices import _POWERSHELL, Voice, find_voice, why_no_voice


def _install(folder: Path, *programs: str) -> None:
    for program in programs:
        path = folder / program
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="programs are found as POSIX does it")
def test_the_voice_of_each_system_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for system in ("linux", "darwin", "win32"):
        assert find_voice(system) is None
        assert "\n" not in why_no_voice(system)
    _install(tmp_path, "spd-say", "say", "powershell.exe")
    spoken = find_voice("linux")
    assert spoken is not None
    assert (spoken.name, spoken.by_stdin, spoken.hush) == ("spd-say", False, ("spd-say", "--cancel"))
    assert spoken.command[-1] == "--"  # a text that begins with a dash is no option
    apple = find_voice("darwin")
    assert apple == Voice((str(tmp_path / "say"), "-f", "-"))
    windows = find_voice("win32")
    assert windows is not None
    assert windows.by_stdin
    _install(tmp_path, "espeak-ng")
    better = find_voice("linux")
    assert better is not None
    assert (better.name, better.by_stdin) == ("espeak-ng", True)


def test_a_system_without_a_voice_says_what_to_install() -> None:
    assert "apt-get install espeak-ng" in why_no_voice("linux")
    assert "espeak-ng" in why_no_voice("freebsd")


def test_what_fails_on_windows_is_its_own_last_line() -> None:
    """The one that `Speaker` shows; PowerShell's own report ends with an identifier."""
    script = _POWERSHELL.removeprefix("try { ")
    assert script != _POWERSHELL
    body, caught = script.split(" } catch { ")
    assert body.endswith(".Speak($in.ReadToEnd())")
    assert caught == "[Console]::Error.WriteLine('error: ' + $_.Exception.Message); exit 1 }"
    assert '"' not in script  # Windows' command line would need it escaped
