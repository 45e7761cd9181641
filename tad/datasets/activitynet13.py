"""ActivityNet 1.3's official JSON → annotation table."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tad.annotations import Table, exclude
from tad.datasets._parse import beside, expect_classes, labels_of, load_json, read_database, read_labels, youtube_id
from tad.errors import TadError

SPLITS: Mapping[str, str] = MappingProxyType({"training": "train", "validation": "test", "testing": ""})
KNOWN: Mapping[str, str] = MappingProxyType({"degenerate": "drop", "duplicate": "drop", "empty": "keep"})
BLOCKED = "on the given list of blocked videos (withdrawn by their owners); the official evaluation leaves them out"


def read_blocked(path: Path, prefix: str) -> dict[str, str]:
    """Blocked video id, with our prefix → reason, from a JSON list of ids, with or without `v_`.

    Raises:
        TadError: not a list of ids.
    """
    value = load_json(path)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TadError(f"{path}: expected a JSON list of video ids, found {type(value).__name__}")
    return {prefix + youtube_id(item): BLOCKED for item in value}


def read(
    source: Path,
    *,
    prefix: str = "v_",
    splits: Mapping[str, str] = SPLITS,
    classes: int = 200,
    label_file: str = "",
    blocked_file: str = "",
    known: Mapping[str, str] = KNOWN,
) -> Table:
    """The table of `activity_net.v1-3.min.json`: the test split is the official validation set.

    The official testing annotations are withheld, so these videos are left out unless `splits` says otherwise. A
    video's id must be its file's name, so the ids get the `prefix` of the files, whether the JSON has it or not.

    Raises:
        TadError: the file, the video and entry, and the remedy.
    """
    source = Path(source)
    videos = read_database(source, splits=splits, rename=lambda name: prefix + youtube_id(name))
    labels = labels_of(videos)
    if label_file:
        labels = read_labels(beside(source, label_file))
    expect_classes(source, labels, videos, classes)
    table = Table("activitynet13", labels, videos, known=dict(known))
    if blocked_file:
        blocked = read_blocked(beside(source, blocked_file), prefix)
        table = exclude(table, {video_id: why for video_id, why in blocked.items() if video_id in videos})
    return table
