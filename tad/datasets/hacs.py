"""HACS Segments' official JSON → annotation table."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tad.annotations import Table
from tad.datasets._parse import beside, expect_classes, labels_of, read_database, read_labels, youtube_id

SPLITS: Mapping[str, str] = MappingProxyType({"training": "train", "validation": "test", "testing": ""})
KNOWN: Mapping[str, str] = MappingProxyType(
    {"degenerate": "drop", "duplicate": "drop", "beyond": "keep", "empty": "keep"}
)


def read(
    source: Path,
    *,
    prefix: str = "v_",
    splits: Mapping[str, str] = SPLITS,
    classes: int = 200,
    label_file: str = "",
    known: Mapping[str, str] = KNOWN,
) -> Table:
    """The table of `HACS_segments_v1.1.1.json` (ActivityNet's layout, durations as text).

    The test split is the official validation set; the testing annotations are withheld. Ids get the `prefix` that the
    video files have.

    Raises:
        TadError: the file, the video and entry, and the remedy.
    """
    source = Path(source)
    videos = read_database(source, splits=splits, rename=lambda name: prefix + youtube_id(name))
    labels = read_labels(beside(source, label_file)) if label_file else labels_of(videos)
    expect_classes(source, labels, videos, classes)
    return Table("hacs", labels, videos, known=dict(known))
