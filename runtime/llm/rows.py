"""A prompt as rows for llama.cpp, and what each of its positions is decoded from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from ..types import Embeds
from .llama_context import LlamaContext, Rows

Key = int | tuple[bytes, int]  # of a position: a token, or a row of hashed embeds


@dataclass(frozen=True, eq=False)
class KvPrefix:
    """A read prompt: what each position was decoded from, and llama.cpp's state of them.

    llama.cpp checks the shape of a state and not whose it is: restore it only with the model file and the settings that
    it was saved with.
    """

    keys: tuple[Key, ...]
    data: NDArray[np.uint8]


def runs_of(segments: Sequence[list[int] | Embeds], llama: LlamaContext) -> list[Rows]:
    """Arrays to decode; tokens that follow each other become one.

    Raises:
        ShapeError: a segment does not fit the model.
    """
    runs: list[Rows] = []
    for is_tokens, run in groupby(segments, key=lambda segment: isinstance(segment, list)):
        if is_tokens:
            ids = np.array([token for segment in run if isinstance(segment, list) for token in segment], np.int64)
            llama.check_tokens(ids)
            runs.append(ids.astype(np.int32))
        else:
            embeds = [segment.data for segment in run if isinstance(segment, Embeds)]
            for data in embeds:
                llama.check_embeds(data)
            runs += embeds
    return runs


def batch_of(runs: Sequence[Rows], first: int, last: int, llama: LlamaContext) -> Rows:
    """Those positions of a prompt: tokens if all are, else embeds, for the larger batch is the faster."""
    parts, end = list[Rows](), 0
    for rows in runs:
        start, end = end, end + len(rows)
        if max(first, start) < min(last, end):
            parts.append(rows[max(first - start, 0) : last - start])
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([llama.embeds(part) for part in parts])


def keys_of(rows: Rows) -> list[Key]:
    """One a position."""
    if rows.ndim == 1:
        return [int(token) for token in rows]
    digest = hashlib.blake2b(rows.data, digest_size=16).digest()
    return [(digest, row) for row in range(len(rows))]


def common(old: Sequence[Key], new: Sequence[Key]) -> int:
    """How many keys both begin with."""
    length = min(len(old), len(new))
    return next((i for i in range(length) if old[i] != new[i]), length)
