"""Read Ego4D Moment Queries' official JSON files, or a conversion of them, into an annotation table of clips."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tad.annotations.table import Instance, Table, Video
from tad.core.errors import TadError
from tad.core.strict_json import type_name
from tad.datasets._official import read_official
from tad.datasets._parse import beside, expect_classes, labels_of, load_json, our_split, read_labels, seconds
from tad.datasets._text import tidy
from tad.datasets.ego4d_settings import Settings

FILES = ("moments_train.json", "moments_val.json")
NO_MOMENT = "no moment of a primary class; published results leave such clips out"
RATES = (10, 100)  # range of frames per second of a clip; the published converters exclude others
ABNORMAL = "its frames and seconds do not fit together; published results leave such clips out"


def _get(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        have = ", ".join(list(entry)[:6]) if isinstance(entry, dict) else f"{entry!r:.40}"
        raise TadError(f"{where}: no '{key}' among {have or 'nothing'}; use the official file")
    return entry[key]


def _list(entry: Any, key: str, where: str) -> list[Any]:
    value = _get(entry, key, where)
    if not isinstance(value, list):
        raise TadError(f"{where}: '{key}' must be a list, not {type_name(value)}; use the official file")
    return value


def _moments(clip: Any, start: float, where: str) -> list[Instance]:
    """Return the moments of primary classes of all annotators, in seconds from the start of the clip."""
    found = []
    for a, annotator in enumerate(_list(clip, "annotations", where)):
        for k, item in enumerate(_list(annotator, "labels", f"{where}, annotations[{a}]")):
            entry = f"annotations[{a}].labels[{k}]"
            place = f"{where}, {entry}"
            if not _get(item, "primary", place):
                continue
            label = _get(item, "label", place)
            if not isinstance(label, str):
                raise TadError(f"{place}: label {label!r:.40} is not a name; use the official file")
            first, last = (seconds(_get(item, f"video_{end}_time", place), place) for end in ("start", "end"))
            found.append(Instance(round(first - start, 4), round(last - start, 4), tidy(label), entry))
    return found


def _clip(clip: Any, split: str, where: str) -> tuple[Video | None, str]:
    """Return the clip as a video, or the reason for its exclusion."""
    start = max(seconds(_get(clip, "video_start_sec", where), where), 0.0)
    duration = round(seconds(_get(clip, "video_end_sec", where), where) - start, 4)
    first, last = (seconds(_get(clip, f"video_{end}_frame", where), where) for end in ("start", "end"))
    frames = int(last) - max(int(first), 0) if math.isfinite(first) and math.isfinite(last) else 0
    rate = frames / duration if duration > 0 else 0.0
    if not RATES[0] <= rate <= RATES[1]:
        return None, ABNORMAL
    moments = _moments(clip, start, where)
    return (Video(split, duration, tuple(moments), rate=rate), "") if moments else (None, NO_MOMENT)


def _read_files(folder: Path, splits: Mapping[str, str]) -> tuple[dict[str, Video], dict[str, str]]:
    """Read the clips of the official files; return them, and the excluded clips with the reason."""
    videos: dict[str, Video] = {}
    excluded: dict[str, str] = {}
    for name in FILES:
        path = folder / name
        for number, video in enumerate(_list(load_json(path), "videos", str(path))):
            where = f"{path}: video '{_get(video, 'video_uid', f'{path}: videos[{number}]')}'"
            split = our_split(_get(video, "split", where), splits, where)
            for k, clip in enumerate(_list(video, "clips", where) if split else []):
                clip_id = str(_get(clip, "clip_uid", f"{where}, clips[{k}]"))
                place = f"{where}, clip '{clip_id}'"
                if clip_id in videos or clip_id in excluded:
                    raise TadError(f"{place}: this clip is listed twice; use the official files")
                found, why = _clip(clip, split, place)
                if found is None:
                    excluded[clip_id] = why
                else:
                    videos[clip_id] = found
    return videos, excluded


def read(source: Path, settings: Settings) -> Table:
    """Read Ego4D's Moment Queries into a table of clips whose test split is the official validation set.

    Args:
        source: the folder of `moments_train.json` and `moments_val.json`, or OpenTAD's or ActionFormer's JSON file
            (ActivityNet's layout).
        settings: see ego4d_settings.py.

    Raises:
        TadError: a file is invalid; the message names the file, the clip and entry, and the remedy.
    """
    source = Path(source)
    if source.name in FILES:
        source = source.parent
    if not source.is_dir():
        return read_official(source, "ego4d", settings)
    videos, excluded = _read_files(source, settings.splits.model_dump())
    labels = read_labels(beside(source, settings.label_file)) if settings.label_file else labels_of(videos)
    expect_classes(source, labels, videos, settings.classes)
    return Table("ego4d", labels, videos, excluded, known=settings.known.model_dump())
