"""Progress of a stage: a bar on a terminal, plain lines in a log."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TextIO, TypeVar

from tad.core.printable import one_line

Item = TypeVar("Item")
log = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 20.0
LONGEST_LINE = 2000  # characters of a log message


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield the items and report progress: a bar if standard error is a terminal, else a log line every 20 s."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as bar

        yield from bar(items, description=description, total=total, console=Console(stderr=True), transient=True)
        return
    reported = started = time.monotonic()
    count = 0
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - reported >= SECONDS_BETWEEN_LINES and count != total:
            reported = now
            left = "" if not total else f" of {total}, about {(now - started) / count * (total - count):.0f} s left"
            log.info("%s: %d%s", description, count, left)
    log.info("%s: %d in %.1f s", description, count, time.monotonic() - started)


@contextmanager
def transfer(description: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a callback for the progress of a download: bytes received, and bytes expected (None: unknown)."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(description, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    reported = time.monotonic()

    def report(done: int, total: int | None) -> None:
        nonlocal reported
        if time.monotonic() - reported >= SECONDS_BETWEEN_LINES:
            reported = time.monotonic()
            log.info("%s: %.1f%s MB", description, done / 1e6, f" of {total / 1e6:.1f}" if total else "")

    yield report


class _PlainLines(logging.Formatter):
    """Format each record as one line, in which names from files cannot act on the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = one_line(record.message, LONGEST_LINE)
        return super().formatMessage(record)


class _StandardError(logging.StreamHandler[TextIO]):
    """Handler that writes to what `sys.stderr` is at the time: a caller of `main` may have replaced and closed it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def setup_logging(*, verbose: bool = False, quiet: bool = False) -> None:
    """Log plain lines with times to standard error.

    Args:
        verbose: also debug messages.
        quiet: on a terminal, which shows bars instead, only warnings.
    """
    handler = _StandardError()
    handler.setFormatter(_PlainLines("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    level = logging.WARNING if quiet and sys.stderr.isatty() else logging.INFO
    logging.basicConfig(level=logging.DEBUG if verbose else level, handlers=[handler], force=True)
