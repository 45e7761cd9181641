"""What the annotation formats share: strict JSON, ActivityNet's layout, seconds, labels, durations, split names."""

import csv
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tad.annotations import SPLITS, Instance, Video, among
from tad.errors import TadError

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


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        TadError: missing, a folder, empty, or another encoding.
    """
    if path.is_dir():
        raise TadError(f"{path}: is a folder; name the annotation file in it")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise TadError(f"{path}: no such file; docs/datasets.md says where each dataset publishes it") from None
    except UnicodeDecodeError as error:
        raise TadError(f"{path}: byte {error.start} is not UTF-8 text; save the file as UTF-8") from None
    if not text.strip():
        raise TadError(f"{path}: the file is empty; download or export it again")
    return text


def load_json(path: Path) -> Any:
    """The JSON value in `path`; NaN passes (the check names its entry), a key given twice does not (one would vanish).

    Raises:
        TadError: unreadable, not JSON, or a repeated key.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            keys = [key for key, _ in pairs]
            key = next(key for key in value if keys.count(key) > 1)
            raise TadError(f"{path}: '{key}' is given {keys.count(key)} times; merge or rename these entries")
        return value

    try:
        return json.loads(read_text(path), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise TadError(f"{path}: {place}: not valid JSON ({error.msg}); repair the file or download it again") from None


def seconds(value: Any, where: str) -> float:
    """A time in seconds from a number or its text (G-TAD's THUMOS14 file has texts). NaN passes; the check names it.

    Raises:
        TadError: anything else, such as `1:23` or `1,5`.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
        if ":" in value:
            raise TadError(f"{where}: time '{value}' is not in seconds; 1:30 is 90, for example")
        if "," in value:
            raise TadError(f"{where}: time '{value}' has a comma; write the decimal with a point")
    raise TadError(f"{where}: time {value!r:.40} is not a number; give seconds")


def beside(source: Path, name: str) -> Path:
    """The file that a setting names: absolute, or relative to the annotation folder or the annotation file's folder."""
    return (source if source.is_dir() else source.parent) / name


def read_labels(path: Path) -> tuple[str, ...]:
    """Labels in the order of their lines; a leading index (`7 BaseballPitch`) is ignored.

    Raises:
        TadError: unreadable, or a label that stands there twice.
    """
    found: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        head, _, rest = line.strip().partition(" ")
        label = rest.strip() if head.isdigit() and rest.strip() else line.strip()
        if label in found:
            raise TadError(f"{path}: line {number}: label '{label}' stands twice; remove one line")
        if label:
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
    """Video id → seconds, from JSON (`{id: seconds}`, `{id: {"duration": …}}`, ActivityNet layout) or CSV.

    A CSV has columns `video` and `duration`, or `video`, `count` and `fps`.

    Raises:
        TadError: unreadable, or an entry without a duration.
    """
    if path.suffix.lower() == ".json":
        value = load_json(path)
        value = value.get("database", value) if isinstance(value, dict) else value
        if not isinstance(value, dict):
            raise TadError(f"{path}: expected {{video id: seconds}}, found a {type(value).__name__}")
        return {str(key): _json_duration(item, f"{path}: video '{key}'") for key, item in value.items()}
    rows = csv.DictReader(read_text(path).splitlines())
    columns = set(rows.fieldnames or [])
    if not columns >= {"video", "duration"} and not columns >= {"video", "count", "fps"}:
        raise TadError(f"{path}: line 1: columns {', '.join(sorted(columns))}; expected video,duration")
    found = {}
    for row in rows:
        where = f"{path}: line {rows.line_num}"
        rate = seconds(row["fps"], where) if "duration" not in columns else 1.0
        if not rate > 0:
            raise TadError(f"{where}: {rate} frames per second; give the video's frame rate")
        found[row["video"]] = seconds(row["duration" if "duration" in columns else "count"], where) / rate
    return found


def our_split(name: Any, names: Mapping[str, str], where: str) -> str:
    """`train`, `val`, `test` or empty (left out) for a file's name of a split, in any case.

    Raises:
        TadError: an unknown name, or a mapping to something that is no split of ours.
    """
    if not isinstance(name, str) or not name.strip():
        raise TadError(f"{where}: no subset; give one of {', '.join(names)}")
    ours = {key.casefold(): value for key, value in names.items()}.get(name.strip().casefold())
    if ours is None:
        hint = among(name, list(names))
        raise TadError(f"{where}: unknown subset '{name}'; {hint}; correct it or map it with the setting splits")
    if ours and ours not in SPLITS:
        raise TadError(f"setting splits: '{name}' is mapped to '{ours}'; map it to one of {', '.join(SPLITS)}")
    return ours


def database(source: Path) -> dict[str, Any]:
    """The entries of a JSON file in ActivityNet's layout by video id.

    Raises:
        TadError: another layout, which is named where it is a known one.
    """
    value = load_json(source)
    if not isinstance(value, dict):
        raise TadError(f"{source}: expected an object with 'database', found a {type(value).__name__}")
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


def _instance(item: Any, entry: str, where: str) -> Instance:
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
    return Instance(seconds(segment[0], where), seconds(segment[1], where), label.strip(), entry)


def _rate(entry: Mapping[str, Any]) -> float | None:
    """Frames per second: stated (ActionFormer's files), or frames by duration (OpenTAD's); None where neither is.

    Few need it, and who does is told what is missing: an odd value is no reason to refuse a file.
    """

    def number(key: str) -> float:
        value = entry.get(key)
        fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
        return float(value) if fits else 0.0  # type: ignore[arg-type]

    rate = number("fps")
    if not rate and number("duration"):
        rate = number("frame") / number("duration")
    return rate or None


def read_database(
    source: Path,
    *,
    splits: Mapping[str, str] = NOTHING,
    ambiguous: str = "",
    rename: Callable[[str], str] = str,
) -> dict[str, Video]:
    """The videos of a JSON file in ActivityNet's layout, in its order.

    Args:
        source: `{"database": {id: {"subset", "duration", "annotations": [{"segment": [s, e], "label"}]}}}`.
            `duration` may be missing or text, `annotations` missing or null, `fps` or `frame` missing.
        splits: the file's subset names → ours, or empty to leave these videos out; the usual names by default.
        ambiguous: label of segments that are neither action nor background.
        rename: the file's video id → ours.

    Raises:
        TadError: file, video, entry, what is there, and what is expected.
    """
    names = splits or SPLIT_NAMES
    videos: dict[str, Video] = {}
    for key, entry in database(source).items():
        where = f"{source}: video '{key}'"
        if not isinstance(entry, dict):
            raise TadError(f"{where}: expected subset and annotations, found {entry!r:.40}")
        split = our_split(entry.get("subset"), names, where)
        video_id = rename(key)
        if video_id in videos:
            raise TadError(f"{where}: the same video as '{video_id}'; merge the two entries")
        items = entry.get("annotations") or []
        if not isinstance(items, list):
            raise TadError(f"{where}: annotations must be a list, not {type(items).__name__}")
        found = [_instance(item, f"annotations[{k}]", where) for k, item in enumerate(items)]
        if split:
            given = entry.get("duration")
            videos[video_id] = Video(
                split=split,
                duration=None if given is None else seconds(given, f"{where}: duration"),
                instances=tuple(i for i in found if i.label != ambiguous or not ambiguous),
                ambiguous=tuple((i.start, i.end) for i in found if ambiguous and i.label == ambiguous),
                rate=_rate(entry),
            )
    return videos


def youtube_id(video_id: str) -> str:
    """The id without the `v_` of file names. An id has 11 characters, and one may itself begin with `v_`."""
    return video_id[2:] if len(video_id) == 13 and video_id.startswith("v_") else video_id


def labels_of(videos: Mapping[str, Video]) -> tuple[str, ...]:
    """The labels that occur, sorted."""
    return tuple(sorted({instance.label for video in videos.values() for instance in video.instances}))


def expect_classes(source: Path, labels: tuple[str, ...], videos: Mapping[str, Video], classes: int) -> None:
    """Refuse a file that does not have the published number of classes; 0: any number will do.

    Raises:
        TadError: the numbers, and the rarest label, which is where a misspelling shows.
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
