"""Read EPIC-KITCHENS-100's official CSV files, or a conversion to JSON, into an annotation table of verbs or nouns."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tad.annotations.table import Instance, Table, Video
from tad.core.errors import TadError
from tad.datasets._csv import rows
from tad.datasets._parse import beside, database, our_split, read_database, seconds
from tad.datasets._text import tidy
from tad.datasets.epic_settings import Settings

CLASSES: Mapping[str, int] = MappingProxyType({"verb": 97, "noun": 300})
ACTIONS = ("video_id", "start_timestamp", "stop_timestamp")
CLOCK = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")
NUMBERED = re.compile(r"id_(\d+)")


def clock(text: str, where: str) -> float:
    """Convert a time HH:MM:SS.ss to seconds.

    Raises:
        TadError: the text has another form.
    """
    match = CLOCK.fullmatch(text)
    if not match:
        raise TadError(f"{where}: time '{text}' is not HH:MM:SS.ss; use the official file")
    hours, minutes, rest = match.groups()
    return round(3600 * int(hours) + 60 * int(minutes) + float(rest), 6)


def _id(value: Any, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    raise TadError(f"{where}: class {value!r:.40} is not a class id; give its number")


def read_names(path: Path) -> list[str]:
    """Read class names in the order of their ids from `EPIC_100_verb_classes.csv` or the noun file (columns id, key).

    Raises:
        TadError: the ids are not 0, 1, 2, …, or a name occurs twice.
    """
    found: list[str] = []
    for number, row in rows(path, ("id", "key")):
        where = f"{path}: line {number}"
        if _id(row["id"], where) != len(found):
            raise TadError(f"{where}: class id {row['id']}, expected {len(found)}; use the official file")
        if not row["key"] or row["key"] in found:
            raise TadError(f"{where}: class name '{row['key']}' is empty or listed twice; use the official file")
        found.append(row["key"])
    return found


def _named(names: list[str], number: int, target: str, where: str) -> str:
    if number >= len(names):
        other = "noun" if target == "verb" else "verb"
        raise TadError(f"{where}: class id {number}, but there are {len(names)} {target}s; is it the {other} file?")
    return names[number]


def _read_tables(folder: Path, target: str, names: list[str]) -> dict[str, Video]:
    """Read the videos of the official CSV files in `folder`; durations from `EPIC_100_video_info.csv` if present."""
    info = folder / "EPIC_100_video_info.csv"
    durations, rates = {}, {}
    if info.is_file():
        for number, row in rows(info, ("video_id", "duration", "fps")):
            durations[row["video_id"]] = seconds(row["duration"], f"{info}: line {number}")
            rates[row["video_id"]] = seconds(row["fps"], f"{info}: line {number}")
    videos: dict[str, Video] = {}
    for name, split in (("EPIC_100_train.csv", "train"), ("EPIC_100_validation.csv", "test")):
        path = folder / name
        instances: dict[str, list[Instance]] = {}
        for number, row in rows(path, (*ACTIONS, f"{target}_class")):
            where, video_id = f"{path}: line {number}", row["video_id"]
            label = _named(names, _id(row[f"{target}_class"], where), target, where)
            start, end = (clock(row[key], where) for key in ACTIONS[1:])
            if video_id in videos:
                raise TadError(f"{where}: video '{video_id}' is a training video too; keep it in one of the files")
            instances.setdefault(video_id, []).append(Instance(start, end, label, f"line {number}"))
        videos |= {
            video_id: Video(split, durations.get(video_id), tuple(found), rate=rates.get(video_id))
            for video_id, found in instances.items()
        }
    return videos


def _ids(source: Path, splits: Mapping[str, str]) -> dict[str, int]:
    """Map the labels of a JSON file to class ids: `label_id` (ActionFormer) or the number in `id_003` (OpenTAD)."""
    found: dict[str, int] = {}
    for video_id, entry in database(source).items():
        if not our_split(entry.get("subset"), splits, f"{source}: video '{video_id}'"):
            continue
        for k, item in enumerate(entry.get("annotations") or []):
            where, label = f"{source}: video '{video_id}', annotations[{k}]", tidy(item["label"])
            match = NUMBERED.fullmatch(label)
            if "label_id" not in item and not match:
                raise TadError(f"{where}: label '{label}' has no label_id; give its class id")
            number = _id(item["label_id"] if "label_id" in item else int(label.removeprefix("id_")), where)
            if found.setdefault(label, number) != number:
                raise TadError(f"{where}: label '{label}' has id {number} here and {found[label]} above; correct one")
    return found


def _read_json(source: Path, target: str, names: list[str], splits: Mapping[str, str]) -> Table:
    """Read a JSON file into a table; classes missing in `names` keep the names of the file."""
    videos = read_database(source, splits=splits)
    ids = _ids(source, splits)
    by_id = dict(enumerate(names)) or {number: f"{target} {number}" for number in range(CLASSES[target])}
    for label, number in ids.items():
        _named(list(by_id.values()), number, target, f"{source}: label '{label}'")
        if not names:
            by_id[number] = label
    labels = tuple(by_id[number] for number in range(len(by_id)))
    renamed = {
        video_id: replace(video, instances=tuple(replace(i, label=by_id[ids[i.label]]) for i in video.instances))
        for video_id, video in videos.items()
    }
    return Table("epic", labels, renamed)


def _find_json(folder: Path, target: str) -> Path:
    """Find the JSON file of a folder without the official CSV files.

    Raises:
        TadError: there is none, or more than one.
    """
    known = [folder / f"epic_kitchens_100_{target}.json", folder / f"epic_kitchens_{target}.json"]
    there = [path for path in known if path.is_file()]
    if len(there) != 1:
        what = "neither EPIC_100_train.csv nor" if not there else "both"
        raise TadError(
            f"{folder}: has {what} {' and '.join(p.name for p in there or known[:1])}; name the file to read"
        )
    return there[0]


def read(source: Path, settings: Settings) -> Table:
    """Read EPIC-KITCHENS-100's action detection, verbs or nouns, into a table; the test split is the validation set.

    Labels are all 97 verbs or 300 nouns in the order of their class ids, with or without instances, as in the
    published detectors.

    Args:
        source: the folder with `EPIC_100_train.csv`, `EPIC_100_validation.csv`, `EPIC_100_video_info.csv` (durations)
            and the class files, as in the official repository; or ActionFormer's or OpenTAD's JSON file, or its folder.
        settings: see epic_settings.py. The file of class names, with the columns id and key, is required for CSV files
            and optional for a JSON file.

    Raises:
        TadError: a file is invalid; the message names the file, the line or entry, and the remedy.
    """
    source = Path(source)
    target, class_file, known = settings.target, settings.class_file, settings.known.model_dump()
    path = beside(source, class_file or f"EPIC_100_{target}_classes.csv")
    names = read_names(path) if class_file or path.is_file() else []
    if source.is_dir() and (source / "EPIC_100_train.csv").is_file():
        videos = _read_tables(source, target, names or read_names(path))
        return Table("epic", tuple(names), videos, known=known)
    if source.suffix.lower() == ".csv":
        raise TadError(f"{source}: name the folder, which has EPIC_100_train.csv and EPIC_100_validation.csv")
    file = _find_json(source, target) if source.is_dir() else source
    return replace(_read_json(file, target, names, settings.splits.model_dump()), known=known)
