"""The voice that the system has, as a program that reads a text aloud. No shell ever sees the text."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

# Windows' own voice has no program. The text comes as bytes through stdin, whatever code page the console is set to.
# The last line of PowerShell's own report of an error says nothing to a person.
_POWERSHELL = (
    "try { $in = New-Object IO.StreamReader([Console]::OpenStandardInput(), [Text.Encoding]::UTF8); "
    "Add-Type -AssemblyName System.Speech; "
    "(New-Object Speech.Synthesis.SpeechSynthesizer).Speak($in.ReadToEnd()) } "
    "catch { [Console]::Error.WriteLine('error: ' + $_.Exception.Message); exit 1 }"
)
_MISSING = {
    "linux": "install one: sudo apt-get install espeak-ng   (or: sudo dnf install espeak-ng)",
    "darwin": "`say` of macOS is not on the PATH",
    "win32": "powershell.exe of Windows is not on the PATH",
}


@dataclass(frozen=True)
class Voice:
    """A program that reads one text aloud and ends when it is done; ending it makes it silent at once.

    command: its words. by_stdin: the text goes in there, as UTF-8; else it is the last word of the command. hush: what
    has to be run as well to make it silent, because another process speaks.
    """

    command: tuple[str, ...]
    by_stdin: bool = True
    hush: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the program."""
        return Path(self.command[0]).stem


def find_voice(platform: str = sys.platform) -> Voice | None:
    """The system's voice; None: there is none.

    On Linux espeak-ng comes before speech-dispatcher's spd-say: it is silent as soon as it is ended, while the other
    only passes messages to a server that all programs share.
    """
    for voice in _voices(platform):
        program = shutil.which(voice.command[0])
        if program is not None:
            return Voice((program, *voice.command[1:]), voice.by_stdin, voice.hush)
    return None


def why_no_voice(platform: str = sys.platform) -> str:
    """One line for where `find_voice` finds none."""
    return f"this system has no voice to read answers aloud; {_MISSING.get(platform, _MISSING['linux'])}"


def _voices(platform: str) -> tuple[Voice, ...]:
    if platform == "darwin":
        return (Voice(("say", "-f", "-")),)
    if platform == "win32":
        root = os.environ.get("SYSTEMROOT", r"C:\Windows")
        options = ("-NoProfile", "-NonInteractive", "-Command", _POWERSHELL)
        own = rf"{root}\System32\WindowsPowerShell\v1.0\powershell.exe"
        return (Voice(("powershell.exe", *options)), Voice((own, *options)))
    spoken = ("spd-say", "--wait", "--")
    return (
        Voice(("espeak-ng", "-b", "1", "--stdin")),
        Voice(("espeak", "-b", "1", "--stdin")),
        Voice(spoken, by_stdin=False, hush=("spd-say", "--cancel")),
    )
