"""What a process that was forked off must leave alone: the threads of what was opened before are not in it."""

from __future__ import annotations

import os

from .errors import BackendError


def check_process(opened_in: int) -> None:
    """Raise BackendError where a process is not the one something was opened in."""
    if os.getpid() != opened_in:
        raise BackendError("this engine was opened before a fork; open one in each process")
