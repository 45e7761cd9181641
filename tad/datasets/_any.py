"""Annotations that nobody has described → table: what `tad evaluate` takes beside the table that annotate made."""

from collections.abc import Collection
from pathlib import Path

from tad.annotations import SPLITS, Table, read_table
from tad.datasets import thumos14
from tad.datasets._parse import labels_of, load_json, read_database
from tad.errors import TadError

AMBIGUOUS = "Ambiguous"
SHOWN = 3


def read_any(path: Path) -> Table:
    """The table of an annotate output, a JSON file in ActivityNet's layout, or a folder of THUMOS'14's text files.

    Splits keep the file's meaning: training, validation and testing are train, val and test. Nothing is left out; that
    is for the protocol to do.

    Raises:
        TadError: another layout; the file, the video and the entry.
    """
    path = Path(path)
    if path.is_dir():
        return thumos14.read_folder(path)
    value = load_json(path)
    keys = set(value) if isinstance(value, dict) else set()
    if {"stamp", "videos", "labels"} <= keys:
        return read_table(path)
    if "results" in keys:
        raise TadError(f"{path}: is a results file; the annotations go in its place, the detections come first")
    videos = read_database(path, ambiguous=AMBIGUOUS)
    return Table(path.stem, labels_of(videos), videos)


def split_of(table: Table, seen: Collection[str], source: Path) -> str:
    """The one split that the videos `seen` (those of a results file) belong to.

    Raises:
        TadError: none of them is annotated, or they are of several splits, so that the user must say which is meant.
    """
    known = {video_id: table.videos[video_id].split for video_id in seen if video_id in table.videos}
    if not known:
        shown = ", ".join(sorted(seen)[:SHOWN]) or "none"
        have = ", ".join(sorted(table.videos)[:SHOWN])
        raise TadError(
            f"{source}: none of its {len(seen)} videos ({shown} …) is annotated ({have} …); are the ids alike?"
        )
    splits = [split for split in SPLITS if split in known.values()]
    if len(splits) > 1:
        counts = ", ".join(f"{split} {list(known.values()).count(split)}" for split in splits)
        raise TadError(f"{source}: detections in videos of several splits ({counts}); say which with --split")
    return splits[0]
