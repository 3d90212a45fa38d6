"""A picture file -> its pixels, upright and in RGB."""

from __future__ import annotations

import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import DecodeError, MediaError, ShapeError
from .types import kind_of

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF")
_MOVING = ("GIF", "PNG")  # those of them that FFmpeg reads when they move
_PAGED = ("MPO", "TIFF")  # of several pictures the first is what is meant: a camera's JPEG has previews behind it
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")  # FFmpeg would show one tile of such a picture
_PIL = threading.Lock()  # held while its limit and Python's warnings are changed: both are the whole process's
_PIXEL_LIMIT = 1 << 29  # of a picture, where a phone's has up to 2e8


def is_still(path: Path) -> bool:
    """Whether a file is a picture; a moving one is FFmpeg's, and so is everything that is no picture.

    Raises:
        MediaError: it is a picture of a kind that cannot be read, or too large.
        DecodeError: it is damaged.
    """
    with path.open("rb") as file:
        start = file.read(12)
    try:
        with _opened(path) as image:
            kind = image.format
            moving = kind not in _PAGED and bool(getattr(image, "is_animated", False))
            if moving and kind == "GIF":
                _check_whole(image)
    except UnidentifiedImageError:
        if start[4:8] == b"ftyp" and start[8:12] in _HEIC:
            raise MediaError(f"{path}: is a HEIC picture, which cannot be read; save it as JPEG or PNG") from None
        return False
    if moving and kind not in _MOVING:
        raise MediaError(f"{path}: is a moving {kind} picture, which cannot be read; save it as GIF or MP4")
    return not moving


def read_still(path: Path, size: int) -> NDArray[np.uint8]:
    """uint8 (size, size, 3), stretched.

    Raises:
        DecodeError: it is damaged.

    Source: Video-LLaMA 64888c0, video_llama/processors: PIL, bicubic.
    """
    with _opened(path) as image:
        image.load()
        image = _turned(image)
        if image.mode.startswith("I"):  # PIL would clip 16 bits to 8 instead of scaling them
            image = Image.fromarray((np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8))
        return _resized(image.convert("RGB"), size)


def stretched(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A picture in memory, uint8 (h, w, 3), RGB -> uint8 (size, size, 3), as that of a file.

    Raises:
        ShapeError: it is not so.
    """
    right = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    if not right or not pixels.size:
        raise ShapeError(f"a picture is {kind_of(pixels)}; give uint8 (h, w, 3), RGB")
    return _resized(Image.fromarray(pixels), size)


def _resized(image: Image.Image, size: int) -> NDArray[np.uint8]:
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """PIL's picture; what it raises for damage is ours, and what it warns of is worth no line of its own."""
    try:
        with _PIL, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(path) as image:
                if image.width * image.height > _PIXEL_LIMIT:
                    raise MediaError(f"{path}: has {image.width}x{image.height} pixels; save it smaller")
                yield image
    except UnidentifiedImageError:
        raise
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path}: has too many pixels ({error}); save it smaller") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise DecodeError(f"{path}: cannot be decoded ({error}); it may be cut, get the picture again") from error


def _open(path: Path) -> Image.Image:
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _PIXEL_LIMIT
    try:
        return Image.open(path, formats=_FORMATS)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _turned(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return image  # its pixels are whole, only what the camera noted beside them is not


def _check_whole(image: Image.Image) -> None:
    """FFmpeg shows what is left of a cut GIF without a word."""
    with open(image.filename, "rb") as file:  # type: ignore[attr-defined]
        if file.read().rstrip(b"\0\r\n").endswith(b";"):
            return
    for number in range(image.n_frames):  # type: ignore[attr-defined]
        image.seek(number)
        image.load()
