"""`python -m vllama.export.mini train` makes the miniature; `... write` puts it into the original's files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from vllama.runtime.errors import VllamaError

from . import recipe
from .demo import write_demo


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vllama.export.mini", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="run every stage in order; what is done already is not done again")
    train.add_argument("--films", type=Path, nargs="*", default=[], help="real clips, as examples of what is foreign")
    train.add_argument(
        "--stage", choices=recipe.STAGES, nargs="*", default=list(recipe.SHIPPED), help="default: what ships"
    )
    write = commands.add_parser("write", help="write the weights in the original's file layout")
    write.add_argument("--out", type=Path, required=True, help="folder for the weights")
    judge = commands.add_parser("judge", help="accuracy per kind of question on held-out clips, from torch features")
    judge.add_argument("--clips", type=int, default=200)
    demo = commands.add_parser("demo", help="render the clips of `vllama demo`")
    demo.add_argument("--out", type=Path, required=True, help="a folder that is there")
    for command in (train, write, judge):
        command.add_argument(
            "--work", type=Path, default=Path("miniature-work"), help="folder for checkpoints and caches"
        )
        command.add_argument("--threads", type=int, default=2)
    try:
        _run(parser.parse_args())
    except VllamaError as error:
        sys.exit(f"{parser.prog}: {error}")


def _run(chosen: argparse.Namespace) -> None:
    if chosen.command == "demo":
        write_demo(chosen.out)
        return
    torch.set_num_threads(chosen.threads)
    torch.set_flush_denormal(True)
    if chosen.command == "train":
        for name in recipe.STAGES:
            if name in chosen.stage:
                recipe.run_stage(name, chosen.work, chosen.films)
    elif chosen.command == "write":
        recipe.write(chosen.work, chosen.out)
    else:
        recipe.judge(chosen.work, chosen.clips)


if __name__ == "__main__":
    main()
