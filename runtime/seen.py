"""Pictures in memory -> a timeline that was saved nowhere."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from .bundle import Bundle
from .encoders import Encoders
from .errors import SpecError
from .stills import stretched
from .timeline import FrameFeature, Timeline
from .times import ms_since
from .types import Frame


def see_pictures(frames: Iterable[Frame], bundle: Bundle, encoders: Encoders) -> Timeline:
    """See `Engine.see`."""
    began, size, last = time.perf_counter(), bundle.spec.video.image_size, -math.inf
    source, seen = iter(frames), list[FrameFeature]()
    while batch := list(islice(source, encoders.batch)):
        for frame in batch:
            if not max(last, 0.0) <= frame.time < math.inf or frame.time == last:
                raise SpecError(f"a picture is at {frame.time} s; let each be later than the one before, from 0 s on")
            last = frame.time
        pictures = [replace(frame, pixels=stretched(frame.pixels, size)) for frame in batch]
        made = encoders.frame_features(pictures).astype(bundle.feature_dtype)
        seen += [
            FrameFeature(number, frame.time, features)
            for number, (frame, features) in enumerate(zip(batch, made, strict=True), len(seen))
        ]
    if not seen:
        raise SpecError("there is no picture to see; give at least one")
    apart = (last - seen[0].time) / max(len(seen) - 1, 1)  # seconds from one to the next, 0 where there is one
    rate = 1.0 / apart if apart else 0.0
    timeline = Timeline(
        bundle.encoders_hash, "", "video" if apart else "image", len(seen), last + apart, rate,
        sound=False, fps=rate, encoded=len(seen), encode_ms=ms_since(began),
    )  # fmt: skip
    for feature in seen:
        timeline.add_frame(feature)
    return timeline
