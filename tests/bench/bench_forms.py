"""The miniature's accuracy on the same held-out clips in every form of size, frame rate, compression and sound.

python tests/bench/bench_forms.py [--clips 18] [--model BUNDLE]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from vllama.export.mini.held_out import FORMS, Form, write_set
from vllama.runtime import Engine
from vllama.runtime.question_set import read_questions


def main() -> None:
    """Render each form, ask, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=18)
    parser.add_argument("--model", default="miniature")
    given = parser.parse_args()
    with Engine.open(given.model) as engine:
        for form in FORMS:
            right = asked(engine, given.clips, form)
            print(f"{100 * sum(right) / len(right):5.1f} % of {len(right)}  {form}", flush=True)
    print(f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}")


def asked(engine: Engine, clips: int, form: Form) -> list[bool]:
    """Whether each answer about the clips in that form is right."""
    sampling = replace(engine.spec.llm.sampling, temperature=0.0)
    right = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VLLAMA_CACHE"] = folder
        for each in read_questions(write_set(Path(folder), clips, forms=[form])):
            *_, last = engine.chat(engine.index(each.video, fps=0.0)).ask(each.question, sampling=sampling, seed=0)
            assert last.usage is not None
            right.append(each.is_right(last.usage.answer))
    return right


if __name__ == "__main__":
    main()
