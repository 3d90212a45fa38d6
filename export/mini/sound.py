"""The sounds of the world, from sines and noise; every rendering of a kind differs in pitch, timbre and envelope."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from vllama.runtime.types import Float32

from .world import Clip, Sound

_RELEASE = 0.02  # seconds in which whatever is cut off fades


def track(clip: Clip, rate: int) -> Float32:
    """The sound of a clip: float32 (samples,), mono, within [-1, 1], at `rate` Hz.

    Pitch, timbre, loudness (-30 to 0 dB) and the noise behind it follow from the clip's seed.
    """
    rng = np.random.default_rng((clip.seed, 1))
    total = np.zeros(round(clip.duration * rate))
    for sound in clip.sounds:
        wave = synthesise(sound, (sound.end - sound.start) * clip.duration, rng, rate)
        first = round(sound.start * clip.duration * rate)
        part = total[first : first + len(wave)]
        part += wave[: len(part)]
    heard = total * loudness(rng) + floor_noise(len(total), rng, rate)
    return np.asarray(heard.clip(-1, 1), np.float32)


def loudness(rng: np.random.Generator) -> float:
    """A peak between -30 and 0 dB, mostly in the upper half."""
    return float(10 ** (rng.uniform(-30, 0) / 20 if rng.random() < 0.35 else rng.uniform(-16, -1) / 20))


def floor_noise(count: int, rng: np.random.Generator, rate: int) -> np.ndarray:
    """What is there when nothing sounds: digital silence, hiss, rumble or hum, -90 to -48 dB."""
    if rng.random() < 0.25:
        return np.zeros(count)
    noise = rng.standard_normal(count)
    kind = rng.random()
    if kind < 0.35:  # each sample leans on the last one: a darker hiss
        noise = noise + np.concatenate(([0.0], noise[:-1])) * rng.uniform(0.3, 1.0)
    elif kind < 0.45:
        hum = np.sin(2 * math.pi * rng.choice([50.0, 60.0]) * np.arange(count) / rate)
        noise = 0.5 * noise + 2 * hum
    return np.asarray(noise * 10 ** (rng.uniform(-90, -48) / 20))


def synthesise(sound: Sound, seconds: float, rng: np.random.Generator, rate: int) -> np.ndarray:
    """One sound of that length with a peak of 1."""
    count = max(int(seconds * rate), rate // 50)
    beeping = sound.kind == "beeps"
    wave = _beeps(count, sound.count, rng, rate) if beeping else _MAKERS[sound.kind](count, rng, rate)
    return np.asarray(wave / max(float(np.abs(wave).max()), 1e-9))


def _voice(hertz: np.ndarray, rng: np.random.Generator, rate: int) -> np.ndarray:
    """A tone of that instantaneous frequency with harmonics: pure, hollow, reedy or anything between."""
    phase = 2 * math.pi * np.cumsum(hertz) / rate
    wave = np.sin(phase)
    if rng.random() < 0.65:
        fall, odd = rng.uniform(0.6, 2.5), rng.random() < 0.4
        for harmonic in (2, 3, 4, 5):
            if (odd and harmonic % 2 == 0) or float(hertz.max()) * harmonic > rate * 0.45:
                continue
            wave = wave + np.sin(harmonic * phase) * rng.uniform(0.2, 1.0) / harmonic**fall
    return np.asarray(wave)


def _fades(count: int, attack: float, release: float, rate: int) -> np.ndarray:
    """Rise and fall of those seconds, cut to fit."""
    t = np.arange(count) / rate
    length = count / rate
    up, down = max(min(attack, length / 2), 1e-4), max(min(release, length / 2), 1e-4)
    return np.minimum(np.minimum(t / up, (length - t) / down), 1.0).clip(0, 1)


def _sustained(hertz: float, count: int, rng: np.random.Generator, rate: int) -> np.ndarray:
    t = np.arange(count) / rate
    wobble = 1 + rng.uniform(0, 0.012) * np.sin(2 * math.pi * rng.uniform(3, 7) * t)
    shape = _fades(count, rng.uniform(0.003, 0.08), rng.uniform(0.01, 0.2), rate)
    if rng.random() < 0.3:
        shape = shape * np.exp(-t * rng.uniform(0.3, 2.0))
    return np.asarray(_voice(hertz * wobble, rng, rate) * shape)


def _low(count: int, rng: np.random.Generator, rate: int) -> np.ndarray:
    return _sustained(float(np.exp(rng.uniform(math.log(95), math.log(400)))), count, rng, rate)


def _high(count: int, rng: np.random.Generator, rate: int) -> np.ndarray:
    return _sustained(float(np.exp(rng.uniform(math.log(800), math.log(3200)))), count, rng, rate)


def _sweep(count: int, rng: np.random.Generator, rate: int, rises: bool) -> np.ndarray:
    low = float(np.exp(rng.uniform(math.log(150), math.log(800))))
    high = min(low * rng.uniform(2.2, 9.0), 5500.0)
    t = np.linspace(0, 1, count)
    if not rises:
        t = 1 - t
    hertz = low * (high / low) ** t if rng.random() < 0.5 else low + (high - low) * t
    return np.asarray(_voice(hertz, rng, rate) * _fades(count, rng.uniform(0.005, 0.08), rng.uniform(0.01, 0.1), rate))


def _beeps(count: int, beeps: int, rng: np.random.Generator, rate: int) -> np.ndarray:
    """Beeps at equal distances, all of one pitch and voice, each about half of its share."""
    slot = count / beeps
    length = int(slot * rng.uniform(0.36, 0.66))
    hertz = np.full(length, float(np.exp(rng.uniform(math.log(420), math.log(2600)))))
    shape = _fades(length, rng.uniform(0.002, 0.012), rng.uniform(0.004, 0.03), rate)
    if rng.random() < 0.25:
        shape = shape * np.exp(-np.linspace(0, rng.uniform(0.5, 2.5), length))
    beep = _voice(hertz, rng, rate) * shape
    wave = np.zeros(count)
    for number in range(beeps):
        first = int(number * slot)
        wave[first : first + length] += beep[: count - first]
    return wave


def _burst(count: int, rng: np.random.Generator, rate: int) -> np.ndarray:
    """Hiss, dark or bright, steady or dying away."""
    noise = rng.standard_normal(count)
    colour = rng.random()
    if colour < 0.6:
        spectrum = np.fft.rfft(noise)
        hertz = np.fft.rfftfreq(count, 1 / rate)
        if colour < 0.3:
            spectrum = spectrum / np.maximum(hertz, 60.0) ** rng.uniform(0.3, 0.9)
        else:
            centre, width = rng.uniform(800, 4000), rng.uniform(1.2, 3.0)
            spectrum = spectrum * np.exp(-((np.log2(np.maximum(hertz, 20) / centre) / width) ** 2))
        noise = np.fft.irfft(spectrum, count)
    shape = _fades(count, rng.uniform(0.001, 0.05), rng.uniform(0.01, 0.15), rate)
    if rng.random() < 0.35:
        shape = shape * np.exp(-np.linspace(0, rng.uniform(0.5, 3.0), count))
    return np.asarray(noise * shape)


def _knock(count: int, rng: np.random.Generator, rate: int) -> np.ndarray:
    """A thump: damped low resonances and a click; sometimes twice in quick succession."""
    t = np.arange(count) / rate
    wave = np.zeros(count)
    for _ in range(rng.integers(1, 4)):
        damping = rng.uniform(22, 70)
        wave += (
            rng.uniform(0.4, 1)
            * np.sin(2 * math.pi * rng.uniform(70, 480) * t + rng.uniform(0, 6))
            * np.exp(-t * damping)
        )
    wave += rng.uniform(0.05, 0.8) * rng.standard_normal(count) * np.exp(-t * rng.uniform(60, 300))
    if rng.random() < 0.2:
        shift = int(rng.uniform(0.08, 0.12) * rate)
        wave[shift:] += wave[:-shift] * rng.uniform(0.6, 1)
    return np.asarray(wave * _fades(count, 0.0005, _RELEASE, rate))


def _chirp(count: int, rng: np.random.Generator, rate: int) -> np.ndarray:
    """A bird: one quick glide, or a few, far above the sweeps."""
    notes = int(rng.integers(1, 5))
    t = np.linspace(0, 1, count)
    within = (t * notes) % 1.0
    low = rng.uniform(1600, 3200)
    span = rng.uniform(1.25, 2.0)
    bend = within if rng.random() < 0.4 else 1 - within if rng.random() < 0.4 else np.sin(math.pi * within)
    gaps = np.sin(math.pi * within) ** rng.uniform(0.4, 1.5) if notes > 1 else np.sin(math.pi * t) ** 0.5
    hertz = np.minimum(low * span**bend, 6500.0)
    return np.asarray(_voice(hertz, rng, rate) * gaps * _fades(count, 0.005, _RELEASE, rate))


_MAKERS: dict[str, Callable[[int, np.random.Generator, int], np.ndarray]] = {
    "low tone": _low,
    "high tone": _high,
    "rising sweep": lambda count, rng, rate: _sweep(count, rng, rate, True),
    "falling sweep": lambda count, rng, rate: _sweep(count, rng, rate, False),
    "noise burst": _burst,
    "knock": _knock,
    "chirp": _chirp,
}
