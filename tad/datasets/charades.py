"""Read Charades, 157 classes of everyday actions, into an annotation table."""

from pathlib import Path

from tad.annotations.table import Table
from tad.datasets._index import read_index
from tad.datasets.charades_settings import Settings


def read(source: Path, settings: Settings) -> Table:
    """Read `charades.json` (the index of super-events) or OpenTAD's file of the same name into a table.

    Args:
        source: the JSON file.
        settings: see charades_settings.py.

    Raises:
        TadError: the file is invalid; the message names the file, the video and entry, and the remedy.
    """
    return read_index(source, "charades", settings, classes=157, first=0)
