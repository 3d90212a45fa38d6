"""What live seeing rests on, measured with the miniature's answers about rendered clips that training never saw.

    python tests/bench/bench_live_choices.py [--clips 30] [--model BUNDLE]

Pictures a second and overlap of sound: the same questions of live timelines, fed from the files. What passes for still:
the pictures with the noise of a camera and JPEG put over them, and which of them are not encoded. Turns remembered: a
question or four about each clip, one clip after the other in one conversation.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vllama.export.mini.held_out import write_set
from vllama.runtime import Engine, LiveChat, Span, Timeline
from vllama.runtime.change import Glance
from vllama.runtime.live import live_chat
from vllama.runtime.live.senses import FRAME_RATE
from vllama.runtime.media import MediaInfo, probe, read_frames
from vllama.runtime.question_set import KnownAnswer, read_questions
from vllama.runtime.sound import count_samples, read_samples
from vllama.runtime.timeline import ClipFeature, FrameFeature
from vllama.runtime.types import Float32, Frame

_FPS, _HOP = 4.0, 1.0
_NOISE, _QUALITY = 5.0, 85  # of 255; of the JPEG
_FULL = 224  # pixels of the camera's picture
_SAME = 2  # of 255: pictures that differ by no more before the noise are the same
Shown = list[tuple[float, NDArray[np.uint8]]]


@dataclass(frozen=True)
class Film:
    """A clip: what is asked about it."""

    info: MediaInfo
    asked: list[KnownAnswer]


def main() -> None:
    """Render, ask, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--model", default="miniature")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Engine.open(given.model) as engine:
        os.environ["VLLAMA_CACHE"] = folder
        by_clip: dict[Path, list[KnownAnswer]] = defaultdict(list)
        for each in read_questions(write_set(Path(folder), given.clips)):
            by_clip[each.video].append(each)
        films = [Film(probe(path), asked) for path, asked in by_clip.items()]
        print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, {engine.bundle.manifest.model}")
        rates(engine, films)
        stillness(engine, films)
        turns(engine, films)


def rates(engine: Engine, films: list[Film]) -> None:
    """Pictures a second and overlap of sound."""
    right = [answers(engine, engine.index(film.info.path, fps=0.0), film.asked) for film in films]
    _row("from the file", right)
    for fps, hop in ((2.0, 1.0), (4.0, 1.0), (4.0, 0.5), (8.0, 0.25)):
        right = []
        for number, film in enumerate(films):
            phase = number % 7 / 7 / fps
            live = fed(engine, film.info, pictures(film.info, fps, phase, engine), hop)
            right.append(answers(engine, live, film.asked, Span(0.0, film.info.duration)))
        _row(f"live, {fps:g} pictures a second, sound every {hop:g} s", right)


def stillness(engine: Engine, films: list[Film]) -> None:
    """What passes for still: how much is not encoded, how far it was off, and what is answered then."""
    clean = [pictures(film.info, _FPS, 0.0, engine) for film in films]
    noisy = [camera(film.info, engine.spec.video.image_size) for film in films]
    features = [[engine.encoders.frame_features([Frame(0, 0.0, p)])[0] for _, p in shown] for shown in noisy]
    every = np.concatenate([np.stack(each) for each in features])
    scale = float(np.linalg.norm(every - every.mean(0), axis=(1, 2)).mean())
    pairs(clean, noisy, features, scale)
    for threshold in (0.0, 3.0, 5.0, 8.0, 12.0, 20.0):
        right, skipped = [], 0
        for film, shown, known in zip(films, noisy, features, strict=True):
            kept = with_stills([pixels for _, pixels in shown], known, threshold)
            skipped += sum(a is not b for a, b in zip(kept, known, strict=True))
            live = fed(engine, film.info, [], _HOP)
            for (at, _), feature in zip(shown, kept, strict=True):
                live.add_frame(FrameFeature(round(at * FRAME_RATE), at, feature.astype(np.float16)))
            right.append(answers(engine, live, film.asked, Span(0.0, film.info.duration)))
        _row(f"still below {threshold:g}: {100 * skipped / len(every):.0f} % not encoded", right)


def pairs(clean: list[Shown], noisy: list[Shown], features: list[list[Float32]], scale: float) -> None:
    """Scores and differences of features, of pictures up to a second apart."""
    for colours in ("colour", "grey"):
        found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
        for shown, seen, known in zip(clean, noisy, features, strict=True):
            glances = [Glance(pixels if colours == "colour" else grey(pixels)) for _, pixels in seen]
            for one in range(len(shown)):
                for two in range(one + 1, min(one + 5, len(shown))):
                    same = np.abs(shown[one][1].astype(int) - shown[two][1]).max() <= _SAME
                    off = float(np.linalg.norm(known[one] - known[two])) / scale
                    found[bool(same)].append((glances[one].change(glances[two]), off))
        noise, moved = np.array(found[True]), np.array(found[False])
        print(f"in {colours}: {len(noise)} pairs that differ by noise: score at most {noise[:, 0].max():.1f}, features")
        print(
            f"    off by {np.median(noise[:, 1]):.3f} (median) and {np.quantile(noise[:, 1], 0.99):.3f} (99 % of them)"
        )
        for threshold in (1.5, 3.0, 5.0, 8.0, 12.0):
            below = moved[moved[:, 0] < threshold][:, 1]
            share = 100 * len(below) / len(moved)
            errors = f"{np.median(below):.3f} (median), {below.max():.3f} (most)" if len(below) else "-"
            print(f"    {len(moved)} pairs that show a change: {share:4.1f} % below {threshold:g}, off by {errors}")


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same without colours."""
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


def turns(engine: Engine, films: list[Film]) -> None:
    """How many turns a conversation about ever new windows should remember."""
    day = Timeline(engine.bundle.encoders_hash, "", "video", 0, 0.0, FRAME_RATE, sound=True, live=True)
    begun, spans = 0.0, []
    for film in films:
        live = fed(engine, film.info, pictures(film.info, _FPS, 0.0, engine), _HOP)
        for frame in live.frames_in():
            at = begun + frame.time
            day.add_frame(replace(frame, index=round(at * FRAME_RATE), time=at))
        for clip in live._clips.items.values():
            day.add_clip(replace(clip, start=begun + clip.start, end=begun + clip.end))
        spans.append(Span(begun, begun + film.info.duration))
        begun += film.info.duration + 3.0
    for remembered in (0, 1, 3, 8):
        live_chat._TURNS = remembered
        chat = engine.chat(day)
        assert isinstance(chat, LiveChat)
        right = [asked_in(chat, film.asked[:4], span) for film, span in zip(films, spans, strict=True)]
        _row(f"{remembered} turns remembered", right)


def answers(engine: Engine, timeline: Timeline, asked: Sequence[KnownAnswer], span: Span | None = None) -> list[bool]:
    """Whether each answer is right, each in a conversation of its own."""
    return [ok for each in asked for ok in asked_in(engine.chat(timeline), [each], span)]


def asked_in(chat: object, asked: Sequence[KnownAnswer], span: Span | None) -> list[bool]:
    """Whether each answer is right, all in one conversation."""
    right = []
    for each in asked:
        *_, last = chat.ask(each.question, span, seed=0)  # type: ignore[attr-defined]
        right.append(each.is_right(last.usage.answer))
    return right


def fed(engine: Engine, info: MediaInfo, shown: Shown, hop: float) -> Timeline:
    """A live timeline with these pictures and the sound of the file, stretch by stretch."""
    live = Timeline(engine.bundle.encoders_hash, "", "video", 0, 0.0, FRAME_RATE, sound=info.has_audio, live=True)
    for at, pixels in shown:
        features = engine.encoders.frame_features([Frame(0, at, pixels)])[0].astype(np.float16)
        live.add_frame(FrameFeature(round(at * FRAME_RATE), at, features))
    audio = engine.spec.audio
    if info.has_audio and audio is not None:
        count, size = count_samples(info, audio.sample_rate), round(audio.clip_seconds * audio.sample_rate)
        starts = range(0, max(count - size, 0) + 1, round(hop * audio.sample_rate))
        for sound in read_samples(info, [(start, min(start + size, count)) for start in starts], audio.sample_rate):
            features = engine.encoders.clip_features([sound])[0].astype(np.float16)
            live.add_clip(ClipFeature(sound.start, sound.end, features))
    live.reach(info.duration)
    return live


def pictures(info: MediaInfo, fps: float, phase: float, engine: Engine) -> Shown:
    """The pictures a camera would have shown at those moments."""
    return at_rate(info, fps, phase, engine.spec.video.image_size)


def at_rate(info: MediaInfo, fps: float, phase: float, size: int) -> Shown:
    """The same, stretched to a size."""
    grid = np.arange(phase, info.duration, 1.0 / fps)
    wanted = sorted({int(i) for i in np.searchsorted(info.frame_times, grid + 1e-6, "right") - 1 if i >= 0})
    return [(frame.time, frame.pixels) for frame in read_frames(info, wanted, size)]


_random = np.random.default_rng(1)


def camera(info: MediaInfo, size: int) -> Shown:
    """The pictures with a camera's noise, as JPEG, in the encoder's size."""
    shown = []
    for at, pixels in at_rate(info, _FPS, 0.0, _FULL):
        noisy = np.clip(pixels + _random.normal(0.0, _NOISE, pixels.shape), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=_QUALITY)
        small = Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        shown.append((at, np.asarray(small)))
    return shown


def with_stills(shown: Sequence[NDArray[np.uint8]], features: Sequence[Float32], threshold: float) -> list[Float32]:
    """As `Seeing` does it: the features of the last one encoded, where nothing is new."""
    kept: list[Float32] = []
    known: tuple[Glance, Float32] | None = None
    for pixels, own in zip(shown, features, strict=True):
        glance = Glance(pixels)
        if known is None or glance.change(known[0]) >= threshold:
            known = glance, own
        kept.append(known[1])
    return kept


def _row(what: str, right: list[list[bool]]) -> None:
    flat = [each for film in right for each in film]
    print(f"{what:<58} {100 * sum(flat) / len(flat):5.1f} % of {len(flat)}", flush=True)


if __name__ == "__main__":
    main()
