"""An iterator → the same items, made by a thread that is a few of them ahead of whoever takes them.

Decoding waits for frames, resizing and flow compute; both let go of Python's lock, so they go on beside the network.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any, TypeVar

Item = TypeVar("Item")
LOOK_SECONDS = 0.2  # how often a thread that waits for room looks whether anybody still takes items
END = object()


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def ahead(make: Callable[[], Iterator[Item]], *, depth: int = 2) -> Generator[Item]:
    """The items of `make()`, which is called, advanced and closed in a thread of its own.

    What it raises is raised here, after the items before it. The thread starts with the first item asked for and ends
    with this iterator, however that ends.

    Args:
        depth: items that may wait to be taken; while one is taken, the next is in the making.
    """
    ready: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def offer(item: Any) -> bool:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=LOOK_SECONDS)
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
        except BaseException as error:  # handed over, and raised where the items are taken
            offer(_Failed(error))
        else:
            offer(END)

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not END:
            if isinstance(item, _Failed):
                raise item.error
            yield item
            del item  # it may be large, and the next may be long in coming
    finally:
        stopped.set()
        thread.join()
