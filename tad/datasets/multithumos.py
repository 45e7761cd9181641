"""Read MultiTHUMOS, 65 classes in the videos of THUMOS14, into an annotation table."""

from pathlib import Path

from tad.annotations.table import Table
from tad.datasets._index import read_index
from tad.datasets.multithumos_settings import Settings


def read(source: Path, settings: Settings) -> Table:
    """Read `multithumos.json` (the index of super-events) or OpenTAD's `multithumos_anno.json` into a table.

    Args:
        source: the JSON file; OpenTAD calls the test videos validation.
        settings: see multithumos_settings.py.

    Raises:
        TadError: the file is invalid; the message names the file, the video and entry, and the remedy.
    """
    return read_index(source, "multithumos", settings, classes=65, first=1)
