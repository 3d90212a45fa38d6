"""`vllama devices`: the cameras and microphones of this machine, with the names to use."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, TypeVar

import typer

from vllama.runtime import DeviceError
from vllama.runtime.capture.cameras import CameraName, list_cameras, why_no_camera
from vllama.runtime.capture.microphones import MicrophoneName, list_microphones, why_no_microphone

_Name = TypeVar("_Name", CameraName, MicrophoneName)


def devices(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List cameras and microphones, with the names to use after --webcam and --mic."""
    cameras, no_camera = _listed(list_cameras, why_no_camera)
    microphones, no_microphone = _listed(list_microphones, why_no_microphone)
    if as_json:
        print(
            json.dumps(
                {
                    "cameras": [asdict(camera) for camera in cameras],
                    "microphones": [asdict(microphone) for microphone in microphones],
                    "no_camera": no_camera,
                    "no_microphone": no_microphone,
                }
            )
        )
        return
    _print("cameras (--webcam)", no_camera, [_camera_row(camera) for camera in cameras])
    _print("microphones (--mic)", no_microphone, [_microphone_row(microphone) for microphone in microphones])


def _listed(those: Callable[[], list[_Name]], why_none: Callable[[], str]) -> tuple[list[_Name], str]:
    """What there is, or one line for why there is nothing."""
    try:
        found = those()
    except DeviceError as error:
        return [], str(error)
    return found, "" if found else why_none()


def _print(title: str, none: str, rows: list[tuple[str, str, str]]) -> None:
    print(f"{title}: none: {none}" if none else f"{title}:")
    width = max((len(row[1]) for row in rows), default=0)
    for number, name, about in rows:
        print(f"{number:>4}  {name:<{width}}  {about}".rstrip())


def _camera_row(camera: CameraName) -> tuple[str, str, str]:
    return str(camera.index), camera.name, camera.path


def _microphone_row(microphone: MicrophoneName) -> tuple[str, str, str]:
    number = "" if microphone.index is None else str(microphone.index)
    return number, microphone.name, microphone.about + (", the default" if microphone.is_default else "")
