from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vllama.cli.pictures import contact_sheet, write_picture
from vllama.runtime import FileError
from vllama.runtime.types import Frame

_PIXELS = np.full((48, 64, 3), 128, np.uint8)
_FRAMES = [Frame(number, float(number), _PIXELS) for number in range(5)]


@pytest.mark.parametrize("name", ["sheet.png", "sheet.JPG", "sheet.webp"])
def test_sheet_has_four_pictures_a_row(tmp_path: Path, name: str) -> None:
    contact_sheet(_FRAMES, tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.size == (4 * 224, 2 * (224 + 18))


def test_neither_kind_of_picture_takes_the_place_of_a_file(tmp_path: Path) -> None:
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"mine")
    with pytest.raises(FileError, match=r"mine\.png: is there already"):
        contact_sheet(_FRAMES, mine)
    with pytest.raises(FileError, match=r"mine\.png: is there already"):
        write_picture(_PIXELS, mine)
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["sheet", "sheet.mp4", "sheet.psd"])  # the last one can be read, not written
def test_ending_that_names_no_picture_is_said_and_leaves_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match=r"is not a picture format that can be written; give a \.png or \.jpg"):
        contact_sheet(_FRAMES, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
