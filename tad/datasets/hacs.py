"""Read HACS Segments' official JSON file into an annotation table."""

from pathlib import Path

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.datasets._official import read_youtube
from tad.datasets.hacs_settings import Settings

FILE = "HACS_segments_v1.1.1.json"


def read(source: Path, settings: Settings) -> Table:
    """Read `HACS_segments_v1.1.1.json` (ActivityNet's layout, durations as strings) or its folder into a table.

    The test split is the official validation set; the testing annotations are withheld. Ids get the prefix of the
    video files.

    Raises:
        TadError: the file is invalid; the message names the file, the video and entry, and the remedy.
    """
    source = Path(source)
    if source.is_dir():
        source /= FILE
        if not source.is_file():
            raise TadError(f"{source.parent}: no {FILE} in it; unpack the archive, or name the file")
    videos, labels = read_youtube(source, settings)
    return Table("hacs", labels, videos, known=settings.known.model_dump())
