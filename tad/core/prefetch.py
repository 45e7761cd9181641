"""Prefetch an iterator in a background thread.

Decoding, resizing and optical flow release Python's global lock, so they run while the network computes.
"""

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from tad.core.errors import TadError

Item = TypeVar("Item")
POLL_SECONDS = 0.2  # how often a thread that waits for a free slot checks whether the consumer has stopped
END = object()
log = logging.getLogger(__name__)


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def prefetch(make: Callable[[], Iterator[Item]], *, depth: int = 2) -> Generator[Item]:
    """Yield the items of `make()`, computed in a background thread that calls, advances and closes it.

    An exception in `make()` is raised here, after the items before it; it is logged if this generator has ended. The
    thread starts when the first item is
    requested, and stops when this generator ends for any reason.

    Args:
        make: returns the iterator to prefetch from; it is called in the thread.
        depth: items that may wait in the queue.
    """
    ready: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def offer(item: Any) -> bool:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=POLL_SECONDS)
                return True
        return False

    def work() -> None:
        try:
            items = make()
            try:
                for item in items:
                    if not offer(item):
                        return
            finally:
                close = getattr(items, "close", None)
                if close is not None:
                    close()
        except BaseException as error:  # passed on, and raised in the consumer
            if not offer(_Failed(error)):
                detail = None if isinstance(error, TadError) else error  # of a user error, the line says everything
                text = "background thread: %r, after its items were no longer wanted"
                log.warning(text, error, exc_info=detail, extra={"transient": True})  # the next attempt may succeed
        else:
            offer(END)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not END:
            if isinstance(item, _Failed):
                raise item.error
            yield item
            del item  # it may be large, and the next one may take long
    finally:
        stopped.set()
        thread.join()
