"""The frames an answer rests on, as a person sees them: in the terminal, or as one picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.color import Color
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from vllama.runtime.errors import FileError
from vllama.runtime.times import clock
from vllama.runtime.types import Frame

from .newfile import write_new

_TILE = 224  # pixels of a picture on the contact sheet
_CAPTION = 18
_COLUMNS = 4


class Blocks:
    """A picture in half blocks, two pixels to a character cell; for any terminal with 24-bit colour."""

    def __init__(self, pixels: NDArray[np.uint8], width: int) -> None:
        """Args: pixels: (h, w, 3), RGB. width: columns; the picture keeps its shape."""
        height = max(2, round(width * pixels.shape[0] / pixels.shape[1] / 2) * 2)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX)
        self._rows = np.asarray(image).reshape(height // 2, 2, width, 3)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for upper, lower in self._rows:
            for above, below in zip(upper, lower, strict=True):
                yield Segment("▀", Style(color=_colour(above), bgcolor=_colour(below)))
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(self._rows.shape[2], self._rows.shape[2])


def strip(frames: Sequence[Frame], width: int) -> RenderableType:
    """Pictures side by side, each with its time; width: columns of each."""
    return Columns([Group(Blocks(frame.pixels, width), Text(clock(frame.time), "dim")) for frame in frames])


def contact_sheet(frames: Sequence[Frame], path: Path) -> None:
    """Write the pictures with their times as one, to a new file.

    Raises:
        FileError, DiskFullError: it is there already, or cannot be written.
    """
    columns = min(_COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    sheet = Image.new("RGB", (columns * _TILE, rows * (_TILE + _CAPTION)), "black")
    draw = ImageDraw.Draw(sheet)
    for number, frame in enumerate(frames):
        x, y = number % columns * _TILE, number // columns * (_TILE + _CAPTION)
        sheet.paste(Image.fromarray(frame.pixels).resize((_TILE, _TILE)), (x, y))
        draw.text((x + 4, y + _TILE + 3), clock(frame.time), fill="white")
    _write(sheet, path)


def write_picture(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write one picture, (h, w, 3), RGB, to a new file.

    Raises:
        FileError, DiskFullError: it is there already, or cannot be written.
    """
    _write(Image.fromarray(pixels), path)


def _write(image: Image.Image, path: Path) -> None:
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:  # some kinds can only be read
        ending = path.suffix or "no ending"
        raise FileError(f"{path}: {ending} is not a picture format that can be written; give a .png or .jpg")
    encoded = BytesIO()
    try:
        image.save(encoded, kind)
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: {error}; give a .png or .jpg") from error
    write_new(path, encoded.getvalue(), "a new .png or .jpg")


def _colour(pixel: NDArray[np.uint8]) -> Color:
    return Color.from_rgb(*(int(value) for value in pixel))
