"""What an answer was made of, in full, so that it can be repeated: a JSON line per question."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vllama.runtime import Chat, Engine, FileError, Sampling, Span, Timeline, Usage
from vllama.runtime.view import Long


class Recorder:
    """Appends to a file that is begun when it is made.

    Raises:
        FileError: it is there already, or cannot be written.
    """

    def __init__(self, path: Path, engine: Engine, clip: Path, timeline: Timeline, *, audio: bool) -> None:
        self._path = path
        manifest = engine.bundle.manifest
        head = {
            "vllama": version("vllama"),
            "model": manifest.model,
            "model_files": {name: record.sha256 for name, record in sorted(manifest.files.items())},
            "clip": str(clip),
            "content": timeline.content,
            "audio": audio,
            "fps": timeline.fps,
            "kv": engine.kv,
            "device": engine.placement.device,
            "runner": engine.placement.runner,
        }
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(head, ensure_ascii=False) + "\n")
        except OSError as error:
            raise FileError(f"{path}: {error.strerror}; give a new file for the record") from error

    def add(self, chat: Chat, question: str, span: Span, long: Long | None, sampling: Sampling, usage: Usage) -> None:
        """One answered question.

        Raises:
            FileError: it cannot be written.
        """
        row = {
            "question": question,
            "span": None if span == Span.whole() else [span.start, span.end],
            "long": long,
            "frame_times": usage.frame_times,
            "audio_spans": usage.audio_spans,
            "prompt": chat.last_prompt,
            "sampling": asdict(sampling),
            "seed": usage.seed,
            "token_ids": usage.token_ids,
            "answer": usage.answer,
        }
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise FileError(f"{self._path}: {error.strerror}; free space, the answer was not recorded") from error


def read_record(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What `Recorder` wrote: its head and its questions.

    Raises:
        FileError: it is not there, or no record.
    """
    try:
        head, *rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
        if not {"model", "model_files", "clip", "content", "audio"} <= head.keys():
            raise ValueError("its first line does not say which model and clip")
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}; give a file that --record wrote") from error
    except (ValueError, AttributeError) as error:
        raise FileError(f"{path}: not a record ({error}); give a file that --record wrote") from error
    return head, rows
