"""A terminal of a child's own."""

from __future__ import annotations


def own_terminal() -> None:
    """Called in a child whose stdin is a terminal: Ctrl-C typed there is for it."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
