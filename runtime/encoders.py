"""The four graphs of a bundle: pictures and sound -> features, features -> embeds."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from .backend import Backend, open_graph
from .bundle import Bundle
from .errors import BackendError
from .fbank import clip_fbanks
from .forks import check_process
from .memory import extended_positions
from .pixels import pixel_values
from .placement import Placement
from .types import Embeds, Float32, Frame, Modality, Samples


class Encoders:
    """Opens each graph when it is first needed, so that a saved timeline never opens the vision encoder.

    Whatever runs a graph raises a BackendError where it cannot run, was closed, or opened before a fork.
    """

    def __init__(self, bundle: Bundle, placement: Placement | None = None, threads: int | None = None) -> None:
        """placement: None for the CPU."""
        self._bundle = bundle
        self._placement = placement or Placement()
        self._threads = threads
        self._open: dict[str, Backend] = {}
        self._closed = False
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._positions = bundle.positions()

    @property
    def batch(self) -> int:
        """How many pictures to give to `frame_features` at once, where so many are at hand."""
        return self._placement.batch

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Of the features of one picture."""
        qformer = self._bundle.spec.video.qformer
        return qformer.query_tokens, qformer.hidden_size

    def frame_features(self, frames: Sequence[Frame]) -> Float32:
        """Pictures -> (n, query_tokens, hidden_size), before their positions in time are added.

        Raises:
            ShapeError: there are none, or they are not as `pixel_values` takes them.
        """
        pixels = pixel_values(frames, self._bundle.spec.video)
        return self._in_batches("frames", "frame_features", pixel_values=pixels)

    def clip_features(self, clips: Sequence[Samples]) -> Float32:
        """Clips of one recording in order -> (n, output_size); overlapping clips share one removal of means.

        Raises:
            ShapeError: there are none, or they are not as `clip_fbanks` takes them.
            MediaError: one is shorter than a window of the filterbank.
        """
        assert self._bundle.spec.audio is not None
        return self._in_batches("clips", "clip_features", fbank=np.stack(clip_fbanks(clips, self._bundle.spec.audio)))

    def video_embeds(self, features: Float32, modality: Modality = "video") -> Embeds:
        """Frame features (t, query_tokens, hidden_size) in order of time -> what the prompt holds of them.

        Up to num_frames they have the positions of the table; more of them, at most `memory_limit`, those beyond it.
        """
        table, count = self._positions["video"], len(features)
        few = count <= self._bundle.spec.video.num_frames
        positions = table[:count] if few else extended_positions(table, count)
        assert len(positions) == count, features.shape
        outputs = self._run("video", frame_features=features[None], positions=positions)
        return Embeds(outputs["embeds"][0], modality)

    def audio_embeds(self, features: Float32) -> Embeds:
        """Clip features (s, output_size) in order of time -> what the prompt holds of them; s at most max_clips."""
        positions = self._positions["audio"][: len(features)]
        assert len(positions) == len(features), features.shape
        outputs = self._run("audio", clip_features=features[None], positions=positions)
        return Embeds(outputs["embeds"][0], "audio")

    def release(self) -> None:
        """Give back the memory of the graphs that read pictures and sound, on a CPU; they are opened again when needed.

        There that takes a moment, and they are the larger half of what encoding needs.
        """
        if self._placement.device == "cpu":
            with self._lock:  # dropped, not closed: another thread may be at work with one
                self._open = {name: graph for name, graph in self._open.items() if name in ("video", "audio")}

    def close(self) -> None:
        """Close every graph that was opened; a second call does nothing, nor does one in a process that was forked off.

        Raises:
            BackendError: one cannot be closed; the others are.
        """
        if os.getpid() != self._pid:  # it would wait for the graphs' threads, which are not here
            return
        with self._lock, ExitStack() as stack:
            self._closed = True
            for backend in self._open.values():
                stack.callback(backend.close)
            self._open.clear()

    def __enter__(self) -> Encoders:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def check_open(self) -> None:
        """Raise BackendError where they were closed, or opened before a fork."""
        check_process(self._pid)
        if self._closed:
            raise BackendError("the encoders were closed; open the model again")

    def _in_batches(self, graph: str, output: str, **rows: Float32) -> Float32:
        ((name, values),) = rows.items()
        starts = range(0, len(values), self.batch)
        return np.concatenate([self._run(graph, **{name: values[i : i + self.batch]})[output] for i in starts])

    def _run(self, graph: str, **inputs: Float32) -> dict[str, Float32]:
        check_process(self._pid)  # before the lock, which may have been held then
        with self._lock:
            self.check_open()
            if graph not in self._open:
                self._open[graph] = open_graph(self._bundle, graph, self._placement, self._threads)
            backend = self._open[graph]
        return backend.run({name: np.ascontiguousarray(array, np.float32) for name, array in inputs.items()})
