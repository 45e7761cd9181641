"""Read ActivityNet 1.3's official JSON file into an annotation table."""

from pathlib import Path

from tad.annotations.table import Table, exclude
from tad.core.errors import TadError
from tad.core.strict_json import type_name
from tad.datasets._official import read_youtube
from tad.datasets._parse import beside, load_json, youtube_id
from tad.datasets.activitynet13_settings import Settings

BLOCKED = "on the given list of blocked videos (withdrawn by their owners); the official evaluation leaves them out"


def read_blocked(path: Path, prefix: str) -> dict[str, str]:
    """Read a JSON list of blocked video ids, with or without `v_`, and map each id with our prefix to the reason.

    Raises:
        TadError: the file is not a list of ids.
    """
    value = load_json(path)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TadError(f"{path}: expected a JSON list of video ids, found {type_name(value)}")
    return {prefix + youtube_id(item): BLOCKED for item in value}


def read(source: Path, settings: Settings) -> Table:
    """Read `activity_net.v1-3.min.json` into a table whose test split is the official validation set.

    The official testing annotations are withheld, so these videos are excluded unless the setting `splits` maps them
    to a split.
    A video's id must equal its file name, so ids get the prefix of the files, whether or not the JSON has it.

    Raises:
        TadError: the file is invalid; the message names the file, the video and entry, and the remedy.
    """
    source = Path(source)
    videos, labels = read_youtube(source, settings)
    table = Table("activitynet13", labels, videos, known=settings.known.model_dump())
    if settings.blocked_file:
        blocked = read_blocked(beside(source, settings.blocked_file), settings.prefix)
        table = exclude(table, {video_id: why for video_id, why in blocked.items() if video_id in videos})
    return table
