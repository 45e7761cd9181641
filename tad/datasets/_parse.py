"""Parsers shared by the annotation formats: strict JSON, ActivityNet's layout, times, labels, durations, splits."""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tad.annotations.table import SPLITS, Instance, Video, among
from tad.core.errors import Remedy, TadError
from tad.core.limits import LimitError
from tad.core.strict_json import parse_json, type_name
from tad.datasets._csv import read_sheet, rows
from tad.datasets._names import VideoNames
from tad.datasets._text import compose, lines_of, read_text, tidy
from tad.datasets._times import Times, has_decimal_commas, rate_of

NOTHING: Mapping[str, str] = MappingProxyType({})
SPLIT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "train": "train",
        "training": "train",
        "val": "val",
        "valid": "val",
        "validation": "val",
        "test": "test",
        "testing": "test",
    }
)


def load_json(path: Path) -> Any:
    """Read the JSON value in `path`.

    NaN is accepted, because the check reports its entry. Duplicate keys are refused, because one of them would be lost.

    Raises:
        TadError: the file is unreadable, is not JSON, or has a duplicate key.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            keys = [key for key, _ in pairs]
            key = next(key for key in value if keys.count(key) > 1)
            raise TadError(f"{path}: '{key}' is given {keys.count(key)} times; merge or rename these entries")
        return value

    try:
        return parse_json(read_text(path), pairs=unique, nan=True)
    except TadError:
        raise
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise TadError(f"{path}: {place}: {_why_no_json(error)}") from None
    except LimitError as error:
        raise TadError(f"{path}: {error}; repair the file; is this the right one?") from None


def _why_no_json(error: json.JSONDecodeError) -> str:
    """Return the cause and the remedy of an error of the JSON parser."""
    rest = error.doc[error.pos :].lstrip()
    if error.msg == "Extra data" and rest[:1] in ("{", "["):
        return "holds several JSON values (JSON lines, or several files in one); put them into one object"
    cut = error.msg.startswith("Unterminated") or not rest
    what = "the file is truncated; download or export it again" if cut else "repair the file or download it again"
    return f"not valid JSON ({error.msg}); {what}"


def seconds(value: Any, where: str) -> float:
    """Parse a time in seconds from a number or a string (G-TAD's THUMOS14 file has strings).

    NaN is accepted, because the check reports its entry.

    Raises:
        TadError: any other value, including clock times, which published files do not contain.
    """
    if isinstance(value, str) and ":" in value:
        raise TadError(f"{where}: time '{value}' is not in seconds; 1:30 is 90, for example")
    return Times().read(value, where)


def beside(source: Path, name: str) -> Path:
    """Resolve a file name in a setting: absolute, or relative to the folder of the annotations."""
    return (source if source.is_dir() else source.parent) / Path(name).expanduser()


def read_labels(path: Path) -> tuple[str, ...]:
    """Read labels in the order of their lines; if all have a number of their own (`7 BaseballPitch`), it is left out.

    Raises:
        TadError: the file is unreadable, its numbers are not in order, or it has a comment or a duplicate label.
    """
    lines = [(number, tidy(line)) for number, line in enumerate(lines_of(read_text(path)), 1) if line.strip()]
    parts = [line.split(None, 1) for _, line in lines]
    numbers = [int(part[0]) for part in parts if len(part) > 1 and part[0].isdecimal()]
    names = [part[-1] for part in parts]
    if len(set(numbers)) == len(set(names)) == len(lines):
        for k in range(1, len(lines)):
            if numbers[k] < numbers[k - 1]:
                raise TadError(
                    f"{path}: line {lines[k][0]}: number {numbers[k]} comes after {numbers[k - 1]}, and the order of"
                    " the lines is that of the classes; sort them, or remove the numbers"
                )
        return tuple(names)
    found: list[str] = []
    for number, label in lines:
        if label.split()[0] == "#":
            raise TadError(f"{path}: line {number}: '{label:.40}' looks like a comment; remove the line")
        if label in found:
            raise TadError(f"{path}: line {number}: label '{label}' is listed twice; remove one line")
        found.append(label)
    return tuple(found)


def _json_duration(value: Any, where: str) -> float:
    if isinstance(value, dict):
        for key in ("duration", "video_seconds", "duration_second", "seconds"):
            if key in value:
                return seconds(value[key], where)
        raise TadError(f"{where}: no 'duration' among {', '.join(value) or 'nothing'}; add it in seconds")
    return seconds(value, where)


def read_durations(path: Path) -> dict[str, float]:
    """Read durations (video id → seconds) from JSON or CSV.

    JSON is `{id: seconds}`, `{id: {"duration": …}}` or ActivityNet's layout. CSV has the columns `video` and
    `duration`, or `video`, `count` and `fps`. Video names are converted to ids by `VideoNames`.

    Raises:
        TadError: the file is unreadable, or an entry has no duration.
    """
    names = VideoNames()
    if path.suffix.lower() == ".json":
        value = load_json(path)
        value = value.get("database", value) if isinstance(value, dict) else value
        if not isinstance(value, dict):
            raise TadError(f"{path}: expected {{video id: seconds}}, found {type_name(value)}")
        return {
            names.read(str(key), str(path)): _json_duration(item, f"{path}: video '{key}'")
            for key, item in value.items()
        }
    sheet = read_sheet(path)
    columns = {name.casefold(): name for name in sheet.header}
    wanted = ("video", "duration") if {"video", "duration"} <= set(columns) else ("video", "count", "fps")
    if not set(wanted) <= set(columns):
        shown = ", ".join(sheet.header)
        raise TadError(f"{path}: line {sheet.header_line}: columns {shown}; expected video,duration")
    found: dict[str, float] = {}
    table = list(sheet.named({name: columns[name] for name in wanted}))
    cells = (row[name] for _, row in table for name in wanted[1:])
    times = Times(decimal_commas=has_decimal_commas(cells, delimiter=sheet.delimiter))
    for number, row in table:
        where = f"{path}: line {number}"
        rate = rate_of(row["fps"], where) if "fps" in row else 1.0
        video, length = names.read(row["video"], where), times.read(row[wanted[1]], where) / rate
        if not 0 < length < math.inf:
            raise TadError(f"{where}: video '{video}' lasts {length:g} s; give its duration, or remove the line")
        if found.setdefault(video, length) != length:
            raise TadError(f"{where}: video '{video}' lasts {length:g} s here, {found[video]:g} s above; keep one")
    return found


def our_split(name: Any, names: Mapping[str, str], where: str) -> str:
    """Map a split name of a file, in any letter case, to `train`, `val`, `test` or empty (exclude).

    Raises:
        TadError: the name is unknown, or is mapped to an unknown split.
    """
    if not isinstance(name, str) or not name.strip():
        raise TadError(f"{where}: no subset; give one of {', '.join(names)}")
    ours = {key.casefold(): value for key, value in names.items()}.get(name.strip().casefold())
    if ours is None:
        hint = among(name, list(names))
        remedy = Remedy("splits", "map it with the setting splits")
        raise TadError(f"{where}: unknown subset '{name}'; {hint}; correct it or ", remedy)
    if ours and ours not in SPLITS:
        raise TadError(f"setting splits: '{name}' is mapped to '{ours}'; map it to one of {', '.join(SPLITS)}")
    return ours


def read_split_file(path: Path, names: Mapping[str, str]) -> dict[str, str]:
    """Read video id → split from a CSV file with the columns video and split.

    Args:
        path: the file.
        names: the file's split names → ours, or empty to exclude.

    Raises:
        TadError: the file is invalid, or a video is in two splits.
    """
    found: dict[str, str] = {}
    ids = VideoNames()
    for number, row in rows(path, ("video", "split")):
        where = f"{path}: line {number}"
        split, video = our_split(row["split"], names, where), ids.read(row["video"], where)
        if found.setdefault(video, split) != split:
            raise TadError(f"{where}: video '{video}' is in {found[video]} and in {split}; keep one")
    return found


def _unknown(subset: Any, names: Mapping[str, str]) -> bool:
    known = {key.casefold() for key in names}
    return isinstance(subset, str) and bool(subset.strip()) and subset.strip().casefold() not in known


def database(source: Path) -> dict[str, Any]:
    """Read the entries of a JSON file in ActivityNet's layout, by video id.

    Raises:
        TadError: the file has another layout; the message names it if it is known.
    """
    return entries_of(load_json(source), source)


def entries_of(value: Any, source: Path) -> dict[str, Any]:
    """Return the entries of a JSON value in ActivityNet's layout, which was read from `source`; see `database`."""
    if not isinstance(value, dict):
        raise TadError(f"{source}: expected an object with 'database', found {type_name(value)}")
    if "database" not in value:
        hint = "expected ActivityNet's layout, see docs/datasets.md"
        if "results" in value:
            hint = "these are detections; give the ground-truth file"
        elif any(isinstance(item, dict) and "duration_second" in item for item in value.values()):
            hint = "this is BSN's file, which has no subsets; give the official JSON"
        raise TadError(f"{source}: no 'database' among the keys ({', '.join(list(value)[:5]) or 'none'}); {hint}")
    if not isinstance(value["database"], dict) or not value["database"]:
        raise TadError(f"{source}: 'database' must map video ids to entries, and not be empty; see docs/datasets.md")
    return value["database"]


def _instance(item: Any, entry: str, where: str, times: Times) -> Instance:
    where = f"{where}, {entry}"
    if not isinstance(item, dict):
        raise TadError(f"{where}: expected 'segment' and 'label', found {item!r:.40}")
    if "segment" not in item:
        raise TadError(f"{where}: no 'segment' among {', '.join(item) or 'nothing'}; add [start, end] in seconds")
    segment = item["segment"]
    if not isinstance(segment, list) or len(segment) != 2:
        raise TadError(f"{where}: segment {segment!r:.60} is not [start, end]; give two times in seconds")
    label = item.get("label")
    if not isinstance(label, str):
        raise TadError(f"{where}: label {label!r:.40} is not a name; give the class as text")
    return Instance(times.read(segment[0], where), times.read(segment[1], where), tidy(label), entry)


def _rate(entry: Mapping[str, Any], where: str, *, needed: bool) -> float | None:
    """Return the frame rate: as stated (ActionFormer), or frames divided by duration (OpenTAD); None if unknown.

    An invalid value counts as unknown and does not refuse the file, unless the times are frames.
    """
    frames, length = entry.get("frame"), entry.get("duration")
    for value, divisor in ((entry.get("fps"), 1), (frames, length)):
        if value is not None and divisor is not None:
            try:
                return rate_of(value, where) if divisor == 1 else rate_of(frames, where) / seconds(length, where)
            except (TadError, ZeroDivisionError):
                if needed and divisor == 1:
                    raise
    return None


def _expect_annotations(entry: Mapping[str, Any], where: str) -> None:
    """Refuse an entry without `annotations` whose instances have another key.

    Raises:
        TadError: the message names the key.
    """
    if entry.get("annotations") is None:
        for key, value in entry.items():
            if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
                raise TadError(f"{where}: no 'annotations', but '{key}' is a list of objects; call it annotations")


def read_database(
    source: Path,
    *,
    splits: Mapping[str, str] = NOTHING,
    ambiguous: str = "",
    rename: Callable[[str], str] = compose,
    times: Times | None = None,
    unassigned: set[str] | None = None,
    ignored: Counter[str] | None = None,
    entries: Mapping[str, Any] | None = None,
) -> dict[str, Video]:
    """Read the videos of a JSON file in ActivityNet's layout, in file order.

    Args:
        source: `{"database": {id: {"subset", "duration", "annotations": [{"segment": [s, e], "label"}]}}}`.
            `duration` may be missing or a string, `annotations` missing or null, `fps` or `frame` missing.
        splits: the file's subset names → ours, or empty to exclude these videos; the usual names by default.
        ambiguous: label of segments that are neither action nor background.
        rename: converts the file's video id to ours.
        times: parser of the ends of segments; by default they are in seconds.
        unassigned: if given, collects the ids of videos without a subset, which become train videos; by default such
            videos are refused.
        ignored: if given, counts by subset the videos of unknown subsets without annotations, which are excluded; by
            default such videos are refused.
        entries: the result of `database(source)`, if the file has already been read.

    Raises:
        TadError: the message names the file, the video, the entry, the actual and the expected value.
    """
    names, times = splits or SPLIT_NAMES, times or Times()
    videos: dict[str, Video] = {}
    for key, entry in (database(source) if entries is None else entries).items():
        where = f"{source}: video '{key}'"
        if not isinstance(entry, dict):
            raise TadError(f"{where}: expected subset and annotations, found {entry!r:.40}")
        video_id = rename(key)
        subset = entry.get("subset")
        if ignored is not None and _unknown(subset, names) and not entry.get("annotations"):
            ignored[str(subset)] += 1
            continue
        if unassigned is not None and not subset:
            split = "train"
            unassigned.add(video_id)
        else:
            split = our_split(entry.get("subset"), names, where)
        if video_id in videos:
            raise TadError(f"{where}: the same video as '{video_id}'; merge the two entries")
        video = _video(entry, where, split, ambiguous=ambiguous, times=times)
        if split:
            videos[video_id] = video
    return videos


def _video(entry: Mapping[str, Any], where: str, split: str, *, ambiguous: str, times: Times) -> Video:
    """Return the video of an entry in ActivityNet's layout; see `read_database`."""
    if split:
        _expect_annotations(entry, where)
    items = entry.get("annotations") or []
    if not isinstance(items, list):
        raise TadError(f"{where}: annotations must be a list, not {type_name(items)}")
    instances = [_instance(item, f"annotations[{k}]", where, times) for k, item in enumerate(items)]
    duration = entry.get("duration") if split else None  # those of excluded videos are not read
    if isinstance(duration, str) and not duration.strip():
        duration = None
    return Video(
        split=split,
        duration=None if duration is None else seconds(duration, f"{where}: duration"),
        instances=tuple(i for i in instances if i.label != ambiguous or not ambiguous),
        ambiguous=tuple((i.start, i.end) for i in instances if ambiguous and i.label == ambiguous),
        rate=_rate(entry, where, needed=times.unit == "frames"),
        in_frames=times.unit == "frames",
    )


def youtube_id(video_id: str) -> str:
    """Remove the prefix `v_` of file names from an id. An id has 11 characters and may itself start with `v_`."""
    return video_id[2:] if len(video_id) == 13 and video_id.startswith("v_") else video_id


def labels_of(videos: Mapping[str, Video]) -> tuple[str, ...]:
    """Return the labels that occur, sorted."""
    return tuple(sorted({instance.label for video in videos.values() for instance in video.instances}))


def expect_classes(source: Path, labels: tuple[str, ...], videos: Mapping[str, Video], classes: int) -> None:
    """Refuse a file without the published number of classes; 0 accepts any number.

    Raises:
        TadError: the numbers differ; the message names the rarest label, which is often a misspelling.
    """
    if classes and len(labels) != classes:
        counts = {label: 0 for label in labels}
        for video in videos.values():
            for instance in video.instances:
                counts[instance.label] += 1
        rarest = min(counts, key=lambda label: counts[label], default="")
        raise TadError(
            f"{source}: {len(labels)} labels, expected {classes} (the rarest is '{rarest}', {counts.get(rarest, 0)} "
            "instances); correct it, or set classes: 0 for a subset of the dataset"
        )
