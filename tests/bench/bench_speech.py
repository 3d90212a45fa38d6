"""How surely speech is told from other sounds, and somebody from the own voice; what listening costs.

    .venv/bin/python tests/bench/bench_speech.py [--seed N]

Speech is espeak-ng's, in several voices, alone and in white noise; the other sounds are those of the miniature's world
(`export/mini/sound.py`), music and machines (`export/mini/strange_sounds.py`). An utterance counts as found if there is
exactly one and it reaches over the whole of the speech.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.live.spoken import RATE, Sound, say, silence
from vllama.export.mini import sound as world
from vllama.export.mini import strange_sounds
from vllama.runtime.speech.echo import Echo
from vllama.runtime.speech.utterances import RULES, Utterances
from vllama.runtime.speech.voice_activity import WINDOW, VoiceActivity
from vllama.runtime.types import Samples

VOICES = ("en", "en-us", "en+f3", "en+m5", "en+f2", "en-gb-scotland", "en+m1", "en+f4")
QUESTIONS = (
    "What is she cooking?", "Is there a red circle?", "What do you hear?", "Where is the dog, and what is it doing?",
    "How many beeps were there?", "What happened around five past two?", "Is there a person?",
    "Which colour has the star?", "Stop.", "Tell me what you can see in the last ten seconds.",
)  # fmt: skip
ANSWERS = (
    "She puts a pan on the stove, and adds some oil. After that she cuts two onions and a carrot, looks at the camera "
    "and waves. At the end somebody else comes in and both of them leave the room.",
    "There is a red car in front of a house; a child plays with a ball. The sound is that of traffic, and of birds.",
    "Yes, there is a person. He wears a blue jacket and reads a newspaper, and he seems to be waiting for a bus.",
)  # fmt: skip
INTERRUPTIONS = ("Hey, can you repeat that please?", "Wait, which car do you mean?", "And what is on the left of it?")
STEP = WINDOW / RATE


def utterances(activity: VoiceActivity, sound: Sound) -> list[Samples]:
    activity.reset()
    found = Utterances()
    probabilities = activity.push(sound)
    said = [
        found.push(sound[number * WINDOW : (number + 1) * WINDOW], (number + 1) * STEP, float(probability))
        for number, probability in enumerate(probabilities)
    ]
    return [each for each in [*said, found.finish()] if each is not None]


def bench_speech(activity: VoiceActivity, rng: np.random.Generator) -> None:
    found, total = Counter[str](), 0
    for question in QUESTIONS:
        for voice in VOICES:
            options = ("-s", str(rng.integers(130, 190)), "-p", str(rng.integers(20, 80)))
            speech = say(question, voice, *options, peak=10 ** (rng.uniform(-25, 0) / 20))
            loud = np.flatnonzero(np.abs(speech) > 0.04 * np.abs(speech).max()) / RATE + 1.0
            total += 1
            for ratio in (None, 30, 20, 10, 5):
                sound = np.concatenate((silence(1.0), speech, silence(1.5)))
                if ratio is not None:
                    level = np.sqrt(np.mean(speech**2)) * 10 ** (-ratio / 20)
                    sound = (sound + level * rng.standard_normal(len(sound))).astype(np.float32)
                said = utterances(activity, sound)
                whole = len(said) == 1 and said[0].start <= loud[0] and said[0].end >= loud[-1] - 0.05
                found["no noise" if ratio is None else f"{ratio} dB above noise"] += whole
    for name, count in found.items():
        print(f"speech, {name:22} {count:4} of {total} found")


def bench_sounds(activity: VoiceActivity, rng: np.random.Generator) -> None:
    for kind in ("beeps", *world._MAKERS):
        alarms = 0
        for _ in range(40):
            count = int(rng.uniform(0.5, 3.0) * RATE)
            made = (
                world._beeps(count, int(rng.integers(1, 5)), rng, RATE)
                if kind == "beeps"
                else world._MAKERS[kind](count, rng, RATE)
            )
            made = made / max(float(np.abs(made).max()), 1e-9) * world.loudness(rng)
            sound = np.concatenate((silence(0.5), made, silence(1.0)))
            sound = (sound + world.floor_noise(len(sound), rng, RATE)).clip(-1, 1)
            alarms += bool(utterances(activity, sound.astype(np.float32)))
        print(f"{kind:30} {alarms:4} of 40 taken for speech")
    for name, make in (("music, 10 s", strange_sounds._music), ("machines, 10 s", strange_sounds._machine)):
        alarms = 0
        for _ in range(40):
            made = make(rng)
            made = made / np.abs(made).max() * 10 ** (rng.uniform(-25, 0) / 20)
            alarms += bool(utterances(activity, made.astype(np.float32)))
        print(f"{name:30} {alarms:4} of 40 taken for speech")
    for level in (0.0, 1e-4, 1e-2, 0.1):
        noise = (level * rng.standard_normal(60 * RATE)).astype(np.float32)
        print(f"white noise {level:6g}, 60 s {len(utterances(activity, noise)):9} taken for speech")


def begins(activity: VoiceActivity, sound: Sound, echo: Echo) -> list[float]:
    """When somebody is thought to begin to speak, all of the sound being heard while the own voice speaks."""
    activity.reset()
    found, times = Utterances(), []
    for number, probability in enumerate(activity.push(sound)):
        window = sound[number * WINDOW : (number + 1) * WINDOW]
        before, likely = found.speaking, float(probability)
        if not before and not echo.hear(window):
            if likely >= RULES.on:
                echo.learn()
            likely = 0.0
        found.push(window, (number + 1) * STEP, likely)
        if found.speaking and not before:
            times.append((number + 1) * STEP)
    return times


def room(speech: Sound, rng: np.random.Generator) -> Sound:
    """A loudspeaker in a room: its echoes, and a little noise."""
    echoes = np.exp(-np.arange(4800) / rng.uniform(400, 1600)) * rng.standard_normal(4800)
    heard = speech + 0.7 * np.convolve(speech, echoes / np.sqrt(np.sum(echoes**2)))[: len(speech)]
    return np.asarray(heard + 0.0005 * rng.standard_normal(len(speech)), np.float32)


def bench_echo(activity: VoiceActivity, rng: np.random.Generator) -> None:
    false, answers, tries = 0, 0, 0
    heard = Counter[int]()
    for voice in VOICES:
        peak, echo, own = 10 ** (rng.uniform(-35, -10) / 20), Echo(), []
        for answer in ANSWERS:
            own.append(np.concatenate((silence(0.5), room(say(answer, voice, peak=peak), rng), silence(0.5))))
            false += bool(begins(activity, own[-1], echo))
            answers += 1
        for words in INTERRUPTIONS:
            other = say(words, str(rng.choice([each for each in VOICES if each != voice])))
            tries += 1
            for ratio in (0, 3, 6, 9, 12):
                mixed = own[0].copy()
                level = np.sqrt(np.mean(own[0] ** 2) / np.mean(other**2)) * 10 ** (ratio / 20)
                mixed[4 * RATE : 4 * RATE + len(other)] += (level * other).astype(np.float32)
                known = Echo()
                for before in own:
                    begins(activity, before, known)
                heard[ratio] += any(4.0 < moment < 4.5 + len(other) / RATE for moment in begins(activity, mixed, known))
    print(f"own voice, same loudness       {false:4} of {answers} answers taken for somebody")
    for ratio, count in heard.items():
        print(f"somebody {ratio:2} dB above the voice  {count:4} of {tries} heard over it")


def bench_cost(activity: VoiceActivity) -> None:
    windows = np.random.default_rng(0).standard_normal((500, WINDOW)).astype(np.float32)
    begun, used = time.perf_counter(), time.process_time()
    for window in windows:
        activity.push(window)
    wall, cpu = time.perf_counter() - begun, time.process_time() - used
    print(f"a window of {1000 * STEP:.0f} ms costs {2 * wall:.2f} ms ({2 * cpu:.2f} ms of CPU)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=11)
    rng = np.random.default_rng(parser.parse_args().seed)
    activity = VoiceActivity()
    bench_speech(activity, rng)
    bench_sounds(activity, rng)
    bench_echo(activity, rng)
    bench_cost(activity)


if __name__ == "__main__":
    main()
