"""Compute independent pieces of work side by side on a CPU, each with its own few threads.

A network on many OpenMP threads scales badly, and its results depend on their number. Several inputs that are computed
at the same time, each with a fixed number of threads, use all cores and give the same bits on every machine.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, TypeVar

MOST = 8  # each lane holds the intermediate values of one input
Result = TypeVar("Result")
_thread = threading.local()  # has `in_lane` in a lane


class Lanes:
    """A number of threads of Python that compute functions side by side.

    Args:
        count: number of lanes; 1: everything is computed at once by the caller.
        begin: called in each lane before its first work; `tad.extraction.engines.lanes_of` sets the CPU threads.
        within: creates the context manager in which a lane computes, such as torch's mode without gradients.
    """

    def __init__(
        self,
        count: int = 1,
        *,
        begin: Callable[[], object] = lambda: None,
        within: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.count, self._within = count, within
        self._pool = ThreadPoolExecutor(count, "lane", initializer=begin) if count > 1 else None

    def submit(self, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Compute a function in a free lane. What it raises is raised here or by the future's `result`.

        A lane computes it itself: if all lanes waited for others, none would be free.
        """
        if self._pool is not None and not hasattr(_thread, "in_lane"):
            return self._pool.submit(self._in_lane, function, *arguments)
        done: Future[Result] = Future()
        done.set_result(function(*arguments))
        return done

    def _in_lane(self, function: Callable[..., Result], *arguments: Any) -> Result:
        _thread.in_lane = True
        with self._within():
            return function(*arguments)

    def map(self, function: Callable[..., Result], items: Iterable[Any]) -> list[Result]:
        """Compute a function of each item; return the results in the items' order."""
        return [future.result() for future in [self.submit(function, item) for item in items]]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Cancel the work that no lane has started, and wait for the rest."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


INLINE = Lanes()
