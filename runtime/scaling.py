"""Pictures -> the square that the encoder sees, upright, bit for bit as upstream's decoder makes it."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import SideData
from numpy.typing import NDArray


class Scaler:
    """swscale's single bilinear pass from the decoder's format to RGB, bit for bit upstream's.

    Source: decord 0.6.0, src/video/ffmpeg: a turned picture is put upright before, not after.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._form: tuple[int, int, str, int] | None = None
        self._graph = Graph()

    def __call__(self, frame: av.VideoFrame, turns: tuple[str, ...] | None = None) -> NDArray[np.uint8]:
        """turns: the filters that put it upright; None: as the frame says."""
        form = (frame.width, frame.height, frame.format.name, frame.rotation)
        if form != self._form:
            self._form, self._graph = form, self._made(frame, _upright(frame) if turns is None else turns)
        self._graph.push(frame)
        scaled = self._graph.pull()
        assert isinstance(scaled, av.VideoFrame)
        return np.ascontiguousarray(scaled.to_ndarray())

    def _made(self, frame: av.VideoFrame, turns: tuple[str, ...]) -> Graph:
        graph = Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        turned = [graph.add(*turn.split("=")) for turn in turns]
        scale = graph.add("scale", f"{self._size}:{self._size}:flags=bilinear")
        rgb = graph.add("format", "rgb24")
        graph.link_nodes(source, *turned, scale, rgb, graph.add("buffersink")).configure()
        return graph


class Stretcher:
    """Stretches pictures that come as arrays, uint8 (height, width, 3), BGR, as those of a file are."""

    def __init__(self, size: int) -> None:
        self._scaler = Scaler(size)

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (size, size, 3), RGB."""
        frame = av.VideoFrame.from_ndarray(pixels, "bgr24")
        frame.time_base = Fraction(1, 1000)  # the graph wants one
        return self._scaler(frame, ())


def _upright(frame: av.VideoFrame) -> tuple[str, ...]:
    """The filters that undo how the camera was held, from the display matrix (a, b, _, c, d, ...):

    x' = a x + c y, y' = b x + d y. To ask makes a circle of the frame, which only the collector frees: ask seldom.
    """
    sides = cast(Iterable[SideData], frame.side_data)
    matrix = next((side for side in sides if side.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return ()
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return (f"transpose={('cclock_flip', 'clock', 'cclock', 'clock_flip')[(c < 0) + 2 * (b < 0)]}",)
    return tuple(name for name, on in (("hflip", a < 0), ("vflip", d < 0)) if on)
