"""Work done ahead in another thread: decode while encoding."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TypeVar

Item = TypeVar("Item")
_WAIT_SECONDS = 0.1


def ahead(source: Generator[Item, None, None] | Iterator[Item], size: int) -> Generator[Item, None, None]:
    """What `source` gives, made by another thread at most `size` items ahead of who takes them.

    Whatever `source` raises is raised here, after what came before it. Closing this ends the thread and `source`.
    """
    items: queue.Queue[Item | _End] = queue.Queue(size)
    stop = threading.Event()
    thread = threading.Thread(target=_fill, args=(source, items, stop), name="decode", daemon=True)
    try:
        thread.start()
        while True:
            item = items.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stop.set()
        if thread.is_alive():  # Ctrl-C may have come before it began; it ends by itself then
            thread.join()


class _End:
    """Comes last."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _fill(source: Iterator[Item], items: queue.Queue[Item | _End], stop: threading.Event) -> None:
    end = _End(None)
    try:
        for item in source:
            if not _put(items, item, stop):
                break
    except BaseException as error:  # noqa: BLE001 - raised again in the thread that takes
        end = _End(error)
    finally:
        if isinstance(source, Generator):
            with closing(source):
                pass
    _put(items, end, stop)


def _put(items: queue.Queue[Item | _End], item: Item | _End, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            items.put(item, timeout=_WAIT_SECONDS)
        except queue.Full:
            continue
        return True
    return False
