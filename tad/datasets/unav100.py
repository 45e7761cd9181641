"""Read UnAV-100, audio-visual events of 100 classes, into an annotation table."""

from pathlib import Path

from tad.annotations.table import Table
from tad.datasets._official import read_official
from tad.datasets.unav100_settings import Settings


def read(source: Path, settings: Settings) -> Table:
    """Read `unav100_annotations.json` (ActivityNet's layout with `label_id`); all three splits have labels.

    Args:
        source: the JSON file.
        settings: see unav100_settings.py.

    Raises:
        TadError: the file is invalid; the message names the file, the video and entry, and the remedy.
    """
    return read_official(source, "unav100", settings)
