"""How a stage tells how far it is: a bar on a terminal, plain lines in a log."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 20.0


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items; show a bar when standard error is a terminal, else log a line now and then."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as bar

        yield from bar(items, description=description, total=total, console=Console(stderr=True), transient=True)
        return
    said = started = time.monotonic()
    count = 0
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES and count != total:
            said = now
            left = "" if not total else f" of {total}, about {(now - started) / count * (total - count):.0f} s left"
            log.info("%s: %d%s", description, count, left)
    log.info("%s: %d in %.1f s", description, count, time.monotonic() - started)


@contextmanager
def transfer(description: str) -> Iterator[Callable[[int, int | None], None]]:
    """A function that is told the bytes that are there and those expected (None: unknown); a bar on a terminal, else a
    line now and then."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(description, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    said = time.monotonic()

    def tell(done: int, total: int | None) -> None:
        nonlocal said
        if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            log.info("%s: %.1f%s MB", description, done / 1e6, f" of {total / 1e6:.1f}" if total else "")

    yield tell


def setup_logging(*, verbose: bool = False) -> None:
    """Plain lines on standard error, with times."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
