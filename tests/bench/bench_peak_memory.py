"""Peak memory of a question with sound, in a process that encodes the clip and in one that finds it encoded.

    python tests/bench/bench_peak_memory.py CLIP [--model BUNDLE] [--fps 0] [--tokens 16] [--kv q8_0]

Each process does what `vllama ask` does. Linux only: resident memory is read from /proc twenty times a second. Of its
peak, "mapped" are pages of files (weights, features), which the system takes back when it needs them, "own" is the
rest. Bars at full size, 7B Q4_K_M with int8 encoders: 6.5 GB encoding, 5.0 GB from a saved timeline.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_BARS = (6.5, 5.0)  # GB
_ASK = """
import dataclasses, sys, threading, time
from vllama.runtime import Engine

def memory():
    rows = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    return [int(rows[name].split()[0]) for name in ("VmHWM", "VmRSS", "RssFile", "RssAnon")]

def say(what):
    global top
    peak, now, mapped, own = memory()
    top = max(top, (now, mapped, own))  # of a step that ends before it is watched
    print(f"{what:<10}" + "".join(f"{1024 * value / 1e9:>8.2f}" for value in (peak, now, mapped, own, top[1], top[2])))
    sys.stdout.flush()
    top = (0, 0, 0)

def watch():
    global top
    while True:
        top = max(top, tuple(memory()[1:]))
        time.sleep(0.05)

top = (0, 0, 0)
threading.Thread(target=watch, daemon=True).start()
clip, model, fps, tokens, kv = sys.argv[1:]
with Engine.open(model, kv=kv or None) as engine:
    say("opened")
    timeline = engine.index(clip, fps=float(fps))
    say("found" if timeline.encoded == 0 else f"encoded {timeline.encoded}")
    sampling = dataclasses.replace(engine.spec.llm.sampling, temperature=0.0, max_tokens=int(tokens))
    usage = [delta.usage for delta in engine.chat(timeline).ask("What do you see and hear?", sampling=sampling)][-1]
    say("answered")
print(f"{len(usage.frame_times)} frames, {len(usage.audio_spans)} stretches of sound, {usage.prompt_tokens} positions")
"""


def main() -> None:
    """Ask twice, the second time from the saved timeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--model", default="miniature")
    parser.add_argument("--fps", type=float, default=0.0, help="pictures per second beside those of the whole clip")
    parser.add_argument("--tokens", type=int, default=16, help="of the answer")
    parser.add_argument("--kv", default="", help="how the KV cache is stored; default: as vllama does")
    given = parser.parse_args()
    print(
        f"{given.model}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}; GB; the last two at the peak of the step"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "VLLAMA_CACHE": folder}
        for what, bar in zip(("encodes the clip", "saved timeline"), _BARS, strict=True):
            print(f"{what}, bar {bar} GB")
            print(f"{'':<10}" + "".join(f"{name:>8}" for name in ("peak", "now", "mapped", "own", "mapped", "own")))
            options = [str(given.clip), given.model, str(given.fps), str(given.tokens), given.kv]
            subprocess.run([sys.executable, "-c", _ASK, *options], env=environment, check=True)


if __name__ == "__main__":
    main()
