"""Own data in ActivityNet's JSON layout → annotation table."""

from collections.abc import Mapping
from pathlib import Path

from tad.annotations import Table
from tad.datasets._parse import NOTHING, beside, labels_of, read_database, read_labels


def read(
    source: Path,
    *,
    splits: Mapping[str, str] = NOTHING,
    label_file: str = "",
    ambiguous: str = "",
) -> Table:
    """The table of a JSON file in ActivityNet's layout, unchecked (see `tad.annotation_checks.check`).

    Args:
        source: the JSON file.
        splits: the file's subset names → train, val, test or empty (left out); empty mapping: the usual names.
        label_file: one label a line, which fixes their order and set; empty: the labels that occur, sorted.
        ambiguous: label of segments that are neither action nor background; empty: none.

    Raises:
        TadError: the file, the video and entry, and the remedy.
    """
    source = Path(source)
    videos = read_database(source, splits=splits, ambiguous=ambiguous)
    labels = read_labels(beside(source, label_file)) if label_file else tuple(x for x in labels_of(videos) if x)
    return Table("activitynet", labels, videos)
