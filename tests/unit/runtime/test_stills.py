"""Picture files as cameras and drawing programs make them."""

from __future__ import annotations

import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vllama.runtime.errors import DecodeError, MediaError
from vllama.runtime.media import probe, read_frames
from vllama.runtime.stills import is_still, read_still

_CORNERS = np.array([(220, 30, 30), (30, 200, 30), (40, 40, 220), (0, 0, 0)], np.uint8)  # left to right, top to bottom


def coloured(width: int = 64, height: int = 96) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    for number, (top, left) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        half = pixels[top * height // 2 : (top + 1) * height // 2, left * width // 2 : (left + 1) * width // 2]
        half[:] = _CORNERS[number]
    return pixels


def corners(pixels: np.ndarray) -> np.ndarray:
    quarter = len(pixels) // 4
    return pixels[[quarter, quarter, -quarter, -quarter], [quarter, -quarter, quarter, -quarter]].astype(int)


def sized(path: Path, width: int, height: int) -> Path:
    """A bitmap whose header says so."""
    Image.new("1", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo_is_shown_upright(orientation: int, tmp_path: Path) -> None:
    upright = coloured()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: np.rot90(upright, 2),
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=98, subsampling=0)
    np.testing.assert_allclose(corners(read_still(path, 64)), _CORNERS, atol=8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16", "CMYK"])
def test_every_mode_becomes_the_same_picture_in_rgb(mode: str, tmp_path: Path) -> None:
    grey = np.zeros((64, 64), np.uint8)
    grey[:, 32:] = 255
    path = tmp_path / ("picture.tiff" if mode == "CMYK" else "picture.png")
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(np.dstack([grey] * 3)).convert(mode).save(path)
    pixels = read_still(path, 32)
    assert (pixels.shape, pixels.dtype.name) == ((32, 32, 3), "uint8")
    assert (pixels[16, 4].tolist(), pixels[16, 28].tolist()) == ([0] * 3, [255] * 3)


def test_sixteen_bits_of_grey_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    Image.fromarray(np.full((16, 16), 100 * 257, np.uint16)).save(path)
    assert read_still(path, 16).tolist() == np.full((16, 16, 3), 100).tolist()


def test_a_picture_of_one_pixel_fills_the_frame(tmp_path: Path) -> None:
    path = tmp_path / "dot.png"
    Image.new("RGB", (1, 1), (10, 20, 30)).save(path)
    assert (read_still(path, 8) == (10, 20, 30)).all()
    info = probe(path)
    assert (info.kind, info.duration, info.has_audio) == ("image", 0.0, False)
    (frame,) = read_frames(info, [0], 8)
    assert (frame.index, frame.time) == (0, 0.0)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff", "a.gif", "a.ppm"])
def test_a_cut_picture_says_so(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    assert is_still(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DecodeError, match=name):
        list(read_frames(probe(path), [0], 32))


def test_a_cut_moving_gif_says_so_and_one_with_bytes_behind_it_does_not(tmp_path: Path) -> None:
    path = tmp_path / "moving.gif"
    frames = [Image.fromarray(np.roll(coloured(), 8 * step, 1)) for step in range(5)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    content = path.read_bytes()
    path.write_bytes(content + b"made by a program\n")
    assert not is_still(path)
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DecodeError, match=r"moving\.gif"):
        probe(path)


@pytest.mark.parametrize("name", ["moving.gif", "moving.png"])
def test_a_moving_gif_or_png_is_a_video(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    frames = [Image.fromarray(np.roll(coloured(), 8 * step, 1)) for step in range(5)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    info = probe(path)
    assert (info.kind, len(info.frame_times)) == ("video", 5)
    np.testing.assert_allclose(info.frame_times, np.arange(5) / 10, atol=1e-6)
    np.testing.assert_allclose(corners(next(read_frames(info, [0], 64)).pixels), _CORNERS, atol=12)


def test_a_moving_picture_that_cannot_be_read_is_not_taken_for_its_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "moving.webp"
    frames = [Image.fromarray(np.roll(coloured(), 8 * step, 1)) for step in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    with pytest.raises(MediaError, match="moving WEBP picture, which cannot be read; save it as GIF or MP4"):
        probe(path)


@pytest.mark.parametrize("name", ["camera.jpg", "pages.tiff"])
def test_of_a_photo_with_a_preview_and_of_pages_the_first_is_the_picture(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    first, second = Image.new("RGB", (64, 48), "red"), Image.new("RGB", (32, 24), "blue")
    first.save(path, "MPO" if path.suffix == ".jpg" else None, save_all=True, append_images=[second])
    assert is_still(path)
    pixels = read_still(path, 8).astype(int)
    assert np.abs(pixels - [255, 0, 0]).max() < 8


def test_a_heic_photo_is_named_and_not_read_as_one_of_its_tiles(tmp_path: Path) -> None:
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(MediaError, match="HEIC picture, which cannot be read; save it as JPEG or PNG"):
        probe(path)


def test_what_pil_warns_of_is_no_line_on_anyones_screen(tmp_path: Path) -> None:
    large, odd, noted = tmp_path / "large.bmp", tmp_path / "odd.png", tmp_path / "noted.jpg"
    sized(large, 16320, 12240)  # a phone's 200 megapixels
    Image.fromarray(coloured()).convert("P").save(odd, transparency=bytes(range(200)))
    bad_exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x02\0\0\0\x05\0\0\xff\xff\x01\x12\0\x03"
    Image.fromarray(coloured()).save(noted, exif=bad_exif, quality=98, subsampling=0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert [is_still(path) for path in (large, odd, noted)] == [True] * 3
        assert read_still(odd, 32).shape == (32, 32, 3)
        np.testing.assert_allclose(corners(read_still(noted, 64)), _CORNERS, atol=8)
    assert [str(warning.message) for warning in seen] == []
    assert Image.MAX_IMAGE_PIXELS is not None


def test_a_picture_too_large_for_memory_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = sized(tmp_path / "huge.bmp", 60000, 60000)
    with pytest.raises(MediaError, match=r"huge.bmp: has .*pixels.*; save it smaller"):
        probe(path)


def test_pictures_read_in_several_threads_leave_pil_and_the_warnings_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(coloured()).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12345)
    before, interval = list(warnings.filters), sys.getswitchinterval()

    def read() -> None:
        for _ in range(100):
            is_still(path)
            read_still(path, 32)

    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == (12345, before)
    finally:
        sys.setswitchinterval(interval)
        warnings.filters[:] = before  # type: ignore[index]
