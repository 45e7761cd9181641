"""The rendered demo's annotations.json (`workflow_scripts/render_demo.py`) → annotation table."""

from pathlib import Path

from tad.annotations import Table
from tad.datasets._parse import NOTHING, labels_of, read_database


def read(source: Path) -> Table:
    """The table of the demo, unchecked (see `tad.annotation_checks.check`): subsets training and testing.

    Raises:
        TadError: the file, the video and entry, and the remedy.
    """
    videos = read_database(Path(source), splits=NOTHING)
    return Table("demo", labels_of(videos), videos)
