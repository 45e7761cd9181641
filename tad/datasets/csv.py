"""Own data as a CSV table (`video,start,end,label`) → annotation table."""

from pathlib import Path

from tad.annotations import SPLITS, Instance, Table, Video
from tad.datasets._csv import rows
from tad.datasets._parse import SPLIT_NAMES, beside, labels_of, our_split, read_durations, read_labels, seconds
from tad.errors import TadError
from tad.plugins import nearest
from tad.video.listing import EXTENSIONS

REQUIRED = ("video", "start", "end", "label")
OPTIONAL = ("split", "duration")


def _read_split_file(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, row in rows(path, ("video", "split")):
        where = f"{path}: line {number}"
        split = our_split(row["split"], SPLIT_NAMES, where)
        if found.setdefault(row["video"], split) != split:
            raise TadError(f"{where}: video '{row['video']}' is in {found[row['video']]} and in {split}; keep one")
    return found


def _split_of(row: dict[str, str], by_video: dict[str, str], split: str, where: str) -> str:
    if row.get("split"):
        return our_split(row["split"], SPLIT_NAMES, where)
    if row["video"] in by_video:
        return by_video[row["video"]]
    if split:
        return split
    ways = "add a column split, or the setting split_file (video,split) or split (one for all)"
    raise TadError(f"{where}: video '{row['video']}' belongs to no split; {ways}")


def read(
    source: Path,
    *,
    split: str = "",
    split_file: str = "",
    label_file: str = "",
    duration_file: str = "",
) -> Table:
    """The table of a CSV file, unchecked (see `tad.annotation_checks.check`).

    Args:
        source: UTF-8, separated by commas, semicolons or tabs, with a header: video, start, end, label, and optionally
            split and duration; other columns are ignored. Times in seconds. A row with a video and no start, end and
            label is a video without instances.
        split: the split of videos that no other source assigns.
        split_file: CSV with columns video and split.
        label_file: one label a line, which fixes their order and set; empty: the labels that occur, sorted.
        duration_file: see `tad.datasets._parse.read_durations`.

    Raises:
        TadError: the file, the line, what is there, and the remedy.
    """
    source = Path(source)
    if split and split not in SPLITS:
        raise TadError(f"setting split: '{split}'; {nearest(split, list(SPLITS))}")
    by_video = _read_split_file(beside(source, split_file)) if split_file else {}
    durations = read_durations(beside(source, duration_file)) if duration_file else {}
    splits: dict[str, str] = {}
    instances: dict[str, list[Instance]] = {}
    for number, row in rows(source, REQUIRED):
        where, video = f"{source}: line {number}", row["video"]
        if not video:
            raise TadError(f"{where}: no video; give the id, which is the file's name without its suffix")
        if Path(video).suffix.lower() in EXTENSIONS:
            raise TadError(f"{where}: video '{video}' has a file's suffix; write '{video.rpartition('.')[0]}'")
        own = _split_of(row, by_video, split, where)
        if splits.setdefault(video, own) != own:
            raise TadError(f"{where}: video '{video}' is in {splits[video]} above and in {own} here; keep one split")
        if row.get("duration"):
            length = seconds(row["duration"], where)
            if durations.setdefault(video, length) != length:
                raise TadError(
                    f"{where}: video '{video}' lasts {length:g} s here, {durations[video]:g} s above; keep one"
                )
        found = instances.setdefault(video, [])
        if row["start"] or row["end"] or row["label"]:
            start, end = seconds(row["start"], where), seconds(row["end"], where)
            found.append(Instance(start, end, row["label"], f"line {number}"))
    if not splits:
        raise TadError(f"{source}: only a header, no rows; add a row for each instance")
    videos = {video: Video(splits[video], durations.get(video), tuple(found)) for video, found in instances.items()}
    labels = read_labels(beside(source, label_file)) if label_file else tuple(x for x in labels_of(videos) if x)
    return Table("csv", labels, videos)
