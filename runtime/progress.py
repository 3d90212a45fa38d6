"""How far a long piece of work has come, told as it goes."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]  # (done, in all)


def counted(progress: Progress | None, total: int) -> Callable[[int], None]:
    """Takes how much more was done; tells `progress` how much that is together, never more than `total`."""
    done = 0

    def step(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(min(done, total), total)

    return step
