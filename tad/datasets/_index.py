"""Read the index layout of MultiTHUMOS and Charades.

It is `{video: {"subset", "duration", "actions": [[class, start, end]]}}`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tad.annotations.table import Instance, Table, Video
from tad.core.errors import TadError
from tad.datasets._names import VideoNames
from tad.datasets._official import official_table
from tad.datasets._parse import beside, load_json, our_split, seconds
from tad.datasets._settings import IndexSettings
from tad.datasets._text import lines_of, read_text, tidy


def read_classes(path: Path, count: int, *, first: int) -> tuple[str, ...]:
    """Read class names, one per line, optionally preceded by their number (`12 Run`, `c012 Running`).

    Raises:
        TadError: wrong number of lines, a number that does not match its line, or a duplicate name.
    """
    names: list[str] = []
    for line in filter(None, (tidy(line) for line in lines_of(read_text(path)))):
        number, _, rest = line.partition(" ")
        digits = number.removeprefix("c")
        if digits.isdecimal() and rest:
            if int(digits) != first + len(names):
                raise TadError(f"{path}: class {number}, expected {first + len(names)}; use the official file")
            line = rest.strip()
        if line in names:
            raise TadError(f"{path}: class '{line}' is listed twice; use the official file")
        names.append(line)
    if len(names) != count:
        raise TadError(f"{path}: {len(names)} classes, expected {count}; use the official file")
    return tuple(names)


def _instance(action: Any, labels: tuple[str, ...], first: int, entry: str, where: str) -> Instance:
    where = f"{where}, {entry}"
    if not isinstance(action, list) or len(action) != 3:
        raise TadError(f"{where}: {action!r:.60} is not [class, start, end]; use the published file")
    number = action[0]
    if not isinstance(number, int) or isinstance(number, bool) or not first <= number < first + len(labels):
        known = f"{first} to {first + len(labels) - 1}"
        raise TadError(f"{where}: class {number!r:.40}; classes are numbers from {known}")
    return Instance(seconds(action[1], where), seconds(action[2], where), labels[number - first], entry)


def read_index(source: Path, name: str, settings: IndexSettings, *, classes: int, first: int) -> Table:
    """Read a file in the index layout, or OpenTAD's conversion of it to ActivityNet's layout, into a table.

    Args:
        classes: number of classes; all of them are labels, with or without instances.
        first: number of the first class in the index layout.
        settings: settings of the format; without `class_file`, labels are `class 1`, `class 2`, …

    Raises:
        TadError: the file is invalid; the message names the file, the video and entry, and the remedy.
    """
    source, class_file = Path(source), settings.class_file
    splits, known = settings.splits.model_dump(), settings.known.model_dump()
    value = load_json(source)
    if isinstance(value, dict) and "database" in value:
        named = read_classes(beside(source, class_file), classes, first=first) if class_file else ()
        table = official_table(source, name, splits=splits, classes=0 if named else classes, label_file="", known=known)
        return replace(table, labels=named) if named else table
    if not isinstance(value, dict) or not value:
        raise TadError(f"{source}: expected {{video: {{subset, duration, actions}}}}; use the published file")
    path = beside(source, class_file)
    labels = (
        read_classes(path, classes, first=first) if class_file else tuple(f"class {first + k}" for k in range(classes))
    )
    names, videos = VideoNames(), dict[str, Video]()
    for key, entry in value.items():
        where = f"{source}: video '{key}'"
        if not isinstance(entry, dict) or not isinstance(entry.get("actions"), list):
            raise TadError(f"{where}: expected subset, duration and a list of actions, found {entry!r:.40}")
        split, video_id = our_split(entry.get("subset"), splits, where), names.read(key, where)
        actions = [_instance(a, labels, first, f"actions[{k}]", where) for k, a in enumerate(entry["actions"])]
        if split:
            given = entry.get("duration")
            duration = None if given is None else seconds(given, f"{where}: duration")
            videos[video_id] = Video(split, duration, tuple(actions))
    return Table(name, labels, videos, known=known)
