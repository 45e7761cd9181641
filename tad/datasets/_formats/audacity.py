"""Audacity: exported label tracks, one file per video; lines of start, end and label, separated by tabs."""

from pathlib import Path

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.datasets._formats._collect import Collector
from tad.datasets._text import lines_of, read_text, tidy
from tad.datasets._times import COMMA, NUMBER


def is_labels(cells: list[str]) -> bool:
    """Return whether the cells of a first line are start, end and label."""
    return len(cells) == 3 and all(NUMBER.fullmatch(c) or COMMA.fullmatch(c) for c in cells[:2])


def read(path: Path) -> Table:
    """Read a label track into a table; the file's name is the name of the video. Lines of frequencies are ignored.

    Raises:
        TadError: a line has another form; the message names it.
    """
    found = Collector("audacity", path)
    found.times.decimal_commas = True
    found.video("")
    for number, line in enumerate(lines_of(read_text(path)), 1):
        if not line.strip() or line.startswith("\\"):
            continue
        cells = [tidy(cell) for cell in line.split("\t")]
        if len(cells) != 3:
            raise TadError(f"{path}: line {number}: {len(cells)} values; a line is start, end, label with tabs between")
        found.add("", cells[0], cells[1], cells[2], f"line {number}")
    return found.table()
