from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest


@pytest.fixture(scope="session")
def still_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of one picture."""
    path = tmp_path_factory.mktemp("clips") / "still.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((96, 128, 3), 90, np.uint8), "rgb24")))
        container.mux(stream.encode())
    return path
