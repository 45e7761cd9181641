"""Read EPIC-KITCHENS-100's validation file into tables of actions (verb-noun pairs), verbs and nouns, by class id."""

from dataclasses import dataclass
from pathlib import Path

from tad.annotations.table import Instance, Table, Video
from tad.core.errors import TadError
from tad.datasets._csv import rows
from tad.datasets._parse import seconds
from tad.datasets.epic import clock, read_names

NAME = "EPIC_100_validation.csv"
COLUMNS = ("video_id", "start_timestamp", "stop_timestamp", "verb_class", "noun_class")
TARGETS = ("action", "verb", "noun")


@dataclass(frozen=True)
class Actions:
    """Ground truth for the three scores of the challenge.

    Attributes:
        tables: action, verb and noun → table. Labels are class ids as text; those of actions are `verb,noun`.
        names: verb and noun → class names by id; empty if the class file is missing.
    """

    tables: dict[str, Table]
    names: dict[str, list[str]]


def _number(text: str, where: str) -> int:
    if not text.isdecimal():
        raise TadError(f"{where}: class '{text}' is not a class id; use the official file")
    return int(text)


def read_actions(source: Path) -> Actions:
    """Read the official validation file; all its instances count, as in the challenge's evaluation script.

    Args:
        source: the folder of the official annotations, or `EPIC_100_validation.csv` in it. Class names are read from
            `EPIC_100_verb_classes.csv` and `EPIC_100_noun_classes.csv`, durations from `EPIC_100_video_info.csv`, all
            in the same folder.

    Raises:
        TadError: the file is invalid; the message names the file, the line and the remedy.
    """
    path = Path(source) / NAME if Path(source).is_dir() else Path(source)
    if path.suffix.lower() != ".csv" or not path.is_file():
        raise TadError(f"{path}: no such file; protocol epic-action needs {NAME} of the official annotations")
    info = path.parent / "EPIC_100_video_info.csv"
    durations = {}
    if info.is_file():
        for number, row in rows(info, ("video_id", "duration")):
            durations[row["video_id"]] = seconds(row["duration"], f"{info}: line {number}")
    instances: dict[str, dict[str, list[Instance]]] = {target: {} for target in TARGETS}
    for number, row in rows(path, COLUMNS):
        where = f"{path}: line {number}"
        verb, noun = (_number(row[key], where) for key in COLUMNS[3:])
        start, end = (clock(row[key], where) for key in COLUMNS[1:3])
        for target, label in zip(TARGETS, (f"{verb},{noun}", str(verb), str(noun)), strict=True):
            own = instances[target].setdefault(row["video_id"], [])
            own.append(Instance(start, end, label, f"line {number}"))
    names = {}
    for target in TARGETS[1:]:
        classes = path.parent / f"EPIC_100_{target}_classes.csv"
        names[target] = read_names(classes) if classes.is_file() else []
    tables = {}
    for target, videos in instances.items():
        labels = tuple(sorted({instance.label for own in videos.values() for instance in own}))
        entries = {v: Video("test", durations.get(v), tuple(own)) for v, own in videos.items()}
        tables[target] = Table("epic", labels, entries)
    return Actions(tables, names)
