"""FiftyOne: labels.json of a temporal detection dataset, in seconds (timestamps) or frames (support)."""

from pathlib import Path
from typing import Any

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.datasets._formats._collect import Collector, expect
from tad.datasets._parse import load_json

TOOL = "FiftyOne"


def is_labels(value: Any) -> bool:
    """Return whether a JSON value looks like FiftyOne's labels of videos."""
    return isinstance(value, dict) and "classes" in value and isinstance(value.get("labels"), dict)


def _name(label: Any, classes: list[Any], where: str) -> str:
    """Return a label's name; a number is an index of `classes`."""
    if isinstance(label, int) and not isinstance(label, bool):
        if not 0 <= label < len(classes):
            raise TadError(f"{where}: label {label} is beyond the {len(classes)} classes of the file")
        return str(classes[label])
    return label if isinstance(label, str) else ""


def read(path: Path) -> Table:
    """Read a temporal detection dataset into a table. `support` is the first and the last frame, counted from 1.

    Raises:
        TadError: an entry has neither timestamps nor support, or both occur in one file.
    """
    value = expect(load_json(path), dict, "the file", path, TOOL)
    classes = value.get("classes") or []
    entries = expect(value.get("labels"), dict, "'labels'", path, TOOL)
    lists = {video: expect(items or [], list, f"labels of '{video}'", path, TOOL) for video, items in entries.items()}
    kinds = {key for items in lists.values() for item in items for key in ("timestamps", "support") if key in item}
    if len(kinds) > 1:
        raise TadError(f"{path}: labels have timestamps or support; export all with use_timestamps=True")
    found = Collector("fiftyone", path, unit="frames" if kinds == {"support"} else "")
    for video, items in lists.items():
        found.video(video)
        for k, item in enumerate(items):
            entry = f"video '{video}', entry {k}"
            span = item.get("timestamps", item.get("support")) if isinstance(item, dict) else None
            if not isinstance(span, list) or len(span) != 2:
                raise TadError(f"{found.where(entry)}: neither timestamps nor support with two values; export it again")
            start, end = span
            if kinds == {"support"}:
                start = found.times.read(start, found.where(entry)) - 1
            label = _name(item.get("label"), classes, found.where(entry))
            found.add(video, start, end, label, entry, score=item.get("confidence"))
    return found.table()
