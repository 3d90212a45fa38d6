"""Which microphones there are, and what `--mic DEVICE` means."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
from dataclasses import dataclass

from ..errors import DeviceError
from .sound_source import SoundDevice, SoundSource, list_devices

LOOPBACK = "loopback"
_PULSE = "pulse"  # the ALSA device behind which PulseAudio, or PipeWire in its place, lists sources of its own
_MONITOR = "@DEFAULT_MONITOR@"  # what is played on its default output
_PACTL_SECONDS = 3.0
_CUT_LENGTH = 31  # of a name that the oldest of Windows' sound systems gives


@dataclass(frozen=True)
class MicrophoneName:
    """A microphone as `vllama devices` lists it; name is what to use.

    index: PortAudio's; None: a source of PulseAudio. about: in words. loopback: it is what this computer plays.
    """

    index: int | None
    name: str
    about: str
    loopback: bool = False
    is_default: bool = False


def list_microphones() -> list[MicrophoneName]:
    """PortAudio's inputs, those of PulseAudio behind them, and the sound of this computer where it can be recorded.

    Raises:
        DeviceError: PortAudio is missing.
    """
    devices = list_devices()
    found = [
        MicrophoneName(
            device.index,
            device.name,
            f"{device.host}, {device.sample_rate} Hz",
            _is_loopback(device.name),
            device.is_default,
        )
        for device in devices
    ]
    if _pulse(devices):
        found += _pulse_sources()
        found.append(MicrophoneName(None, LOOPBACK, "what this computer plays", True))
    return found


def why_no_microphone() -> str:
    """One line for where `list_microphones` finds none."""
    if sys.platform != "linux":
        return "PortAudio lists no input; plug one in, or allow this program to use it in the system's privacy settings"
    nodes = glob.glob("/dev/snd/pcm*c")
    if nodes and not any(os.access(node, os.R_OK | os.W_OK) for node in nodes):
        return "no permission to open /dev/snd; run `sudo usermod -aG audio $USER` and log in again"
    return "neither a sound card nor a sound server that ALSA knows; plug one in, or install libasound2-plugins"


def find_sound(text: str) -> SoundSource:
    """What DEVICE means: "default", an index, a name that `vllama devices` lists or a part of it, "loopback".

    Raises:
        DeviceError: it means nothing, or PortAudio is missing.
    """
    devices = list_devices()
    if not devices:
        raise DeviceError(f"{text}: there is no microphone: {why_no_microphone()}")
    if text == "default":
        return SoundSource(text)
    if text.isdecimal():
        chosen = [device for device in devices if device.index == int(text)]
    elif text == LOOPBACK:
        return _loopback(devices)
    else:
        chosen = [device for device in devices if device.name.casefold() == text.casefold()]
        if not chosen and (pulse := _pulse(devices)):
            named = [source.name for source in _pulse_sources() if text in (source.name, source.about)]
            if named:
                return SoundSource(text, pulse.name, pulse.host, named[0])
        chosen = chosen or [device for device in devices if text.casefold() in device.name.casefold()]
    return _chosen(text, chosen)


def _chosen(text: str, found: list[SoundDevice]) -> SoundSource:
    """Of one name, the one that the system prefers: Windows lists a microphone once for each of its sound systems."""
    full = {device.name for device in found if len(device.name) != _CUT_LENGTH}
    found = [device for device in found if device.name in full or not any(n.startswith(device.name) for n in full)]
    names = {device.name for device in found}
    if not names:
        raise DeviceError(f"{text}: there is no such microphone; `vllama devices` lists them")
    if len(names) > 1:
        raise DeviceError(f"{text}: fits {' and '.join(sorted(names))}; use the whole name")
    hosts = {device.host for device in found}
    preferred = [device.host for device in list_devices() if device.is_default and device.host in hosts]
    host = preferred[0] if preferred else found[0].host
    return SoundSource(found[0].name, found[0].name, host)


def _loopback(devices: list[SoundDevice]) -> SoundSource:
    if pulse := _pulse(devices):
        return SoundSource(LOOPBACK, pulse.name, pulse.host, _MONITOR)
    for device in devices:
        if _is_loopback(device.name):
            return SoundSource(LOOPBACK, device.name, device.host)
    raise DeviceError(
        f"{LOOPBACK}: this system offers no recording of what it plays; install a virtual device that does "
        "(BlackHole, VB-Cable) and use its name"
    )


def _is_loopback(name: str) -> bool:
    return any(word in name.casefold() for word in ("loopback", "stereo mix", ".monitor"))


def _pulse(devices: list[SoundDevice]) -> SoundDevice | None:
    return next((device for device in devices if device.name == _PULSE and device.host == "ALSA"), None)


def _pulse_sources() -> list[MicrophoneName]:
    """PulseAudio's own list, where its tools are installed: PortAudio only shows the door to it."""
    try:
        done = subprocess.run(
            ["pactl", "--format=json", "list", "sources"],
            capture_output=True, timeout=_PACTL_SECONDS, env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        sources = json.loads(done.stdout) if not done.returncode else []
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return []
    return [
        MicrophoneName(None, str(source["name"]), str(source["description"]), bool(source.get("monitor_source")))
        for source in sources
    ]
