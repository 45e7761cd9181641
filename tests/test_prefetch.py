"""Prefetching: the same items in order, errors where they occur, and no thread left behind."""

import threading
import time
from collections.abc import Iterator

import pytest

from tad.core.prefetch import prefetch


def counting(made: list[int], *, fails_at: int = -1) -> Iterator[int]:
    try:
        for number in range(100):
            if number == fails_at:
                raise ValueError("seven")
            made.append(number)
            yield number
    finally:
        made.append(-1)


def test_items_come_in_order_from_another_thread() -> None:
    made: list[int] = []
    where = []

    def make() -> Iterator[int]:
        where.append(threading.current_thread())
        return counting(made)

    assert list(prefetch(make)) == list(range(100))
    assert made[-1] == -1
    assert where[0] is not threading.current_thread()
    assert not where[0].is_alive()


def test_no_more_are_made_than_may_wait() -> None:
    made: list[int] = []
    items = prefetch(lambda: counting(made), depth=3)
    assert next(items) == 0
    while len(made) < 5:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3, 4]  # one taken, three waiting, one that waits for room
    items.close()
    assert made[-1] == -1  # whoever takes no more lets the maker clean up
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_an_error_comes_after_the_items_before_it() -> None:
    made: list[int] = []
    items = prefetch(lambda: counting(made, fails_at=7))
    assert [next(items) for _ in range(7)] == [0, 1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="seven"):
        next(items)
    assert made[-1] == -1


def test_an_error_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def failing_at_the_end() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            raise ValueError("cannot close")

    items = prefetch(failing_at_the_end)
    assert next(items) == 0
    items.close()
    assert "cannot close" in caplog.text
