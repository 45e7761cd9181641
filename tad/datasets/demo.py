"""Read annotations.json of the rendered demo (`workflow_scripts/render_demo.py`) into an annotation table."""

from pathlib import Path

from tad.annotations.table import Table
from tad.datasets._parse import NOTHING, labels_of, read_database
from tad.datasets.demo_settings import Settings


def read(source: Path, settings: Settings) -> Table:
    """Read the subsets training and testing of the demo, unchecked (see `tad.annotations.checks.check`).

    Raises:
        TadError: the file is invalid; the message names the file, the video and entry, and the remedy.
    """
    videos = read_database(Path(source), splits=NOTHING)
    return Table("demo", labels_of(videos), videos)
