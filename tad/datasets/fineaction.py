"""Read FineAction, 106 fine-grained classes, into an annotation table."""

from pathlib import Path

from tad.annotations.table import Table
from tad.datasets._official import read_official
from tad.datasets.fineaction_settings import Settings


def read(source: Path, settings: Settings) -> Table:
    """Read `annotations_gt.json` (ActivityNet's layout) into a table whose test split is the official validation set.

    Args:
        source: the JSON file.
        settings: see fineaction_settings.py.

    Raises:
        TadError: the file is invalid; the message names the file, the video and entry, and the remedy.
    """
    return read_official(source, "fineaction", settings)
