"""Sounds that are not of the miniature's world: speech, music, crowds, engines, the sound of real films."""

from __future__ import annotations

import math
import shutil
import subprocess
import wave
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import av
import numpy as np

from vllama.runtime.types import Float32

RATE = 16000
_SECONDS = 10
_VOICES = ("en", "en-us", "en+f3", "de", "fr", "es+f2", "it", "pl+m3", "en+m5", "sv+f4", "pt", "nl+m2")
_WORDS = (
    "the of and to in is you that it he was for on are with they this from have one what all when there said each "
    "about then many would other people water little after words just where kitchen garden street morning letter "
    "music window seven long number way could first been who now find down day"
)


def strange_tracks(count: int, seed: int, films: Sequence[Path] = ()) -> Float32:
    """float32 (count, 160000): ten seconds each at 16 kHz, peaks between -25 and 0 dB.

    Without espeak-ng on the machine there is no speech among them.
    """
    rng = np.random.default_rng(seed)
    speech = [_speak(rng) for _ in range(max(8, count // 10))] if shutil.which("espeak-ng") else []
    reels = [_read_sound(path) for path in films]
    tracks = []
    for _ in range(count):
        draw = rng.random()
        if speech and draw < 0.35:
            sound = _crop(speech[rng.integers(len(speech))], rng)
        elif reels and draw < 0.55:
            sound = _crop(reels[rng.integers(len(reels))], rng)
        elif speech and draw < 0.65:
            sound = sum((_crop(speech[rng.integers(len(speech))], rng) for _ in range(7)), np.zeros(_SECONDS * RATE))
        elif draw < 0.85:
            sound = _music(rng)
        else:
            sound = _machine(rng)
        if rng.random() < 0.2:
            sound = sound + 0.4 * np.abs(sound).max() * _machine(rng)
        peak = 10 ** (rng.uniform(-25, 0) / 20)
        tracks.append((sound / (np.abs(sound).max() + 1e-9) * peak).astype(np.float32))
    return np.stack(tracks)


def _crop(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ten seconds from anywhere, played up to a quarter faster or slower."""
    speed = rng.uniform(0.8, 1.25)
    at = rng.uniform(0, len(sound)) + np.arange(_SECONDS * RATE) * speed
    return np.asarray(np.interp(at % (len(sound) - 1), np.arange(len(sound)), sound))


def _speak(rng: np.random.Generator) -> np.ndarray:
    text = " ".join(rng.choice(_WORDS.split(), 28)) + "."
    command = [
        "espeak-ng",
        "-v",
        str(rng.choice(_VOICES)),
        "-s",
        str(rng.integers(120, 210)),
        "-p",
        str(rng.integers(15, 85)),
    ]
    said = subprocess.run([*command, "--stdout", text], capture_output=True, check=True).stdout
    with wave.open(BytesIO(said)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768
        rate = file.getframerate()
    return np.asarray(np.interp(np.arange(0, len(samples), rate / RATE), np.arange(len(samples)), samples))


def _read_sound(path: Path) -> np.ndarray:
    resampler = av.AudioResampler("flt", "mono", RATE)
    with av.open(str(path)) as container:
        parts = [part.to_ndarray()[0] for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate(parts).astype(np.float64)


def _music(rng: np.random.Generator) -> np.ndarray:
    """Notes and chords that never stop, perhaps with a beat under them."""
    total = np.zeros(_SECONDS * RATE)
    beat = rng.uniform(0.15, 0.6)
    root = rng.uniform(80, 300)
    for voice in range(rng.integers(1, 5)):
        at = 0.0
        while at < _SECONDS - 0.2:
            length = beat * rng.choice([1, 1, 2, 4])
            first, count = int(at * RATE), int(min(length * 1.3, _SECONDS - at) * RATE)
            t = np.arange(count) / RATE
            hertz = root * 2 ** (rng.choice([0, 2, 4, 5, 7, 9, 11, 12]) / 12 + voice % 3)
            note = sum(np.sin(2 * math.pi * hertz * h * t) / h for h in (1, 2, 3)) * np.exp(-t * rng.uniform(1, 6))
            total[first : first + count] += note * (1 - np.exp(-t * 200))
            at += length
    if rng.random() < 0.5:
        for at in np.arange(0, _SECONDS - 0.2, beat):
            t = np.arange(int(0.12 * RATE)) / RATE
            first = int(at * RATE)
            total[first : first + len(t)] += 3 * rng.standard_normal(len(t)) * np.exp(-t * 40)
    return total


def _machine(rng: np.random.Generator) -> np.ndarray:
    """Steady noise of some colour that swells and ebbs: rain, wind, traffic, an engine."""
    count = _SECONDS * RATE
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hertz = np.maximum(np.fft.rfftfreq(count, 1 / RATE), 30.0)
    spectrum /= hertz ** rng.uniform(0.0, 1.2)
    noise = np.fft.irfft(spectrum, count)
    noise /= np.abs(noise).max()
    t = np.arange(count) / RATE
    noise *= 1 + rng.uniform(0, 0.8) * np.sin(2 * math.pi * rng.uniform(0.1, 3) * t + rng.uniform(0, 6))
    if rng.random() < 0.5:
        turn = rng.uniform(20, 90)
        noise += 0.4 * sum(np.sin(2 * math.pi * turn * h * t) / h for h in range(1, 8))
    return np.asarray(noise)
