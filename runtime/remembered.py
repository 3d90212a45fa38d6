"""The whole of a long video, read once when it is indexed, so that no question about it pays for its length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .chunk import open_chunk, write_arrays
from .errors import FileError
from .memory import KEPT, SHORT, Memory, MemoryFrames, fragment_size, position_count
from .spec import ModelSpec
from .types import Float32

NAME = "whole.memory"
_MOST_FRAMES = 64  # of the table's 256 positions; the video Q-former's cost grows with them
_LATER = 0.1  # share of the frames that may have come since, for questions about short spans


@dataclass(frozen=True, eq=False)
class Remembered:
    """What a question about all of a video has instead of its frames.

    embeds: float32 (query_tokens, hidden_size). starts: seconds at which each merged frame begins. frames: of the
    timeline, that went in.
    """

    embeds: Float32
    starts: tuple[float, ...]
    frames: int

    def is_of(self, frames: int) -> bool:
        """Whether it stands for a timeline of so many frames."""
        return self.frames <= frames and frames - self.frames <= _LATER * frames


def memory_limit(spec: ModelSpec) -> int:
    """How many frames a memory of this model may have; 0 if its position table is too small for any."""
    limit = min(_MOST_FRAMES, position_count(spec.video.video_qformer.max_frames))
    return limit if spec.video.num_frames <= SHORT and limit > SHORT + KEPT else 0


def start_memory(spec: ModelSpec, frames: int) -> Memory | None:
    """The memory of so many frames, still empty; None where the original's rule takes them all, or none is possible."""
    limit = memory_limit(spec)
    if not limit or frames <= spec.video.num_frames:
        return None
    return Memory(limit, num_frames=spec.video.num_frames, fragment=fragment_size(frames, limit))


def remembered(merged: MemoryFrames, frames: int, embeds: Float32) -> Remembered:
    """From a memory's frames and what the video Q-former made of them."""
    return Remembered(embeds, tuple(start for start, _ in merged.times), frames)


def write_remembered(folder: Path, says: dict[str, object], whole: Remembered) -> None:
    """Beside the features of a timeline; says: what else has to be the same for it to be of use.

    Raises:
        OSError: it cannot be written.
    """
    about = {**says, "frames": whole.frames}
    write_arrays(folder / NAME, about, {"embeds": whole.embeds, "starts": np.array(whole.starts, np.float64)})


def read_remembered(folder: Path, says: dict[str, object]) -> Remembered | None:
    """What `write_remembered` wrote; None where that is not there, of another model, or of no use: it is made again."""
    try:
        chunk = open_chunk(folder / NAME)
    except (FileError, OSError):
        return None
    if {name: chunk.about.get(name) for name in says} != says or set(chunk.parts) != {"embeds", "starts"}:
        return None
    arrays = chunk.arrays()
    return Remembered(np.array(arrays["embeds"]), tuple(arrays["starts"].tolist()), int(chunk.about["frames"]))
