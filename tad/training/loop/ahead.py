"""Read the batches of the next training step while this one is computed."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from tad.core.prefetch import prefetch

Item = TypeVar("Item")


def read_ahead(make: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """Yield the items of `make()`; a thread of its own computes one item ahead, on one core.

    A second team of OpenMP threads would make both wait for each other, so that training with two threads took longer
    than with one.
    """
    threads = torch.get_num_threads()

    def alone() -> Iterator[Item]:
        torch.set_num_threads(1)  # of this thread
        return make()

    items = prefetch(alone, depth=1)
    try:
        first = [next(items)]
    except StopIteration:
        first = []
    finally:
        torch.set_num_threads(threads)  # threads that start later have the number that was set last
    yield from first
    yield from items
