"""The label formats of tad itself: CSV (video,start,end,label), also as a spreadsheet, and ActivityNet's JSON."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tad.annotations.table import Table
from tad.core.files import publish
from tad.core.printable import csv_cell, csv_quoting
from tad.datasets import csv as own
from tad.datasets._columns import plain
from tad.datasets._formats._collect import milliseconds
from tad.datasets._names import VideoNames
from tad.datasets._parse import labels_of, read_database
from tad.datasets._text import compose

EPIC_COLUMNS = {"video": "video_id", "start": "start_timestamp", "end": "stop_timestamp", "label": "verb"}
SECONDS = "seconds"  # in the column `unit`
SUBSETS = {"train": "training", "val": "validation", "test": "testing"}


def is_epic(header: Sequence[str]) -> bool:
    """Return whether a header is that of EPIC-KITCHENS' CSV files."""
    return set(EPIC_COLUMNS.values()) | {"noun", "narration"} <= {plain(name) for name in header}


def read_csv(path: Path, *, unit: str = "") -> Table:
    """Read a CSV file or spreadsheet into a table; see `tad.datasets.csv.read`."""
    return own.read_unassigned(path, unit=unit)


def read_epic(path: Path, *, unit: str = "") -> Table:
    """Read a CSV file of EPIC-KITCHENS into a table; the verbs are the labels."""
    return own.read_unassigned(path, unit=unit, columns=EPIC_COLUMNS)


def _times(start: int, end: int) -> tuple[str, str]:
    return f"{start / 1000:.3f}", f"{end / 1000:.3f}"


def write_csv(table: Table, path: Path, _files: Mapping[str, Path]) -> None:
    """Write instances as CSV in seconds, with columns for splits, durations and scores where the table has any.

    The column unit says that times are in seconds, so that a setting for other labels cannot change their meaning.
    Moments have a column time instead of start and end. A video without instances is a row with empty times and label.
    """
    videos = table.videos.values()
    extra = [
        name
        for name, there in (
            ("split", any(video.split for video in videos)),
            ("duration", any(video.duration for video in videos)),
            ("score", any(i.score is not None for video in videos for i in video.instances)),
        )
        if there
    ]
    text = io.StringIO(newline="")
    labels = (instance.label for video in videos for instance in video.instances)
    writer = csv.writer(text, lineterminator="\n", quoting=csv_quoting((*table.videos, *labels)))
    columns = ["time"] if table.kind == "moments" else ["start", "end"]
    writer.writerow(["video", *columns, "label", *extra, own.UNIT])
    for video_id, video in table.videos.items():
        facts = {"split": video.split, "duration": "" if video.duration is None else f"{video.duration:.3f}"}
        for instance in video.instances:
            score = "" if instance.score is None else f"{instance.score:.4f}"
            row = facts | {"score": score}
            texts = csv_cell(video_id), csv_cell(instance.label)
            times = _times(*milliseconds(instance))[: len(columns)]
            writer.writerow([texts[0], *times, texts[1], *(row[k] for k in extra), SECONDS])
        if not video.instances:
            blank = ["" for _ in columns]
            writer.writerow([csv_cell(video_id), *blank, "", *(facts.get(key, "") for key in extra), SECONDS])
    with publish(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8", newline="")


def is_activitynet(value: Any) -> bool:
    """Return whether a JSON value has ActivityNet's layout."""
    return isinstance(value, dict) and isinstance(value.get("database"), dict)


def read_activitynet(path: Path) -> Table:
    """Read a JSON file in ActivityNet's layout into a table; videos without a subset have an empty split."""
    names, unassigned = VideoNames(), set[str]()
    videos = read_database(path, rename=lambda name: names.read(compose(name), str(path)), unassigned=unassigned)
    videos = {v: replace(video, split="") if v in unassigned else video for v, video in videos.items()}
    notes = tuple(f"{count} {what}" for what, count in names.seen.items())
    return Table("activitynet", tuple(x for x in labels_of(videos) if x), videos, notes=notes)


def write_activitynet(table: Table, path: Path, _files: Mapping[str, Path]) -> None:
    """Write instances as JSON in ActivityNet's layout, in seconds; detections have a score."""
    database: dict[str, Any] = {}
    for video_id, video in table.videos.items():
        entry: dict[str, Any] = {"subset": SUBSETS[video.split]} if video.split else {}
        if video.duration is not None:
            entry["duration"] = video.duration
        entry["annotations"] = [
            {"segment": [i.start, i.end], "label": i.label} | ({} if i.score is None else {"score": i.score})
            for i in video.instances
        ]
        database[video_id] = entry
    with publish(path) as partial:
        text = json.dumps({"version": "tad", "database": database}, indent=1, ensure_ascii=False)
        partial.write_text(text, encoding="utf-8")
