"""Label Studio: JSON and JSON-MIN exports of timeline labels."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.datasets._formats._collect import Collector, expect, is_video
from tad.datasets._parse import load_json

TOOL = "Label Studio"
UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # the prefix that Label Studio gives to uploaded files
FRAMES = (
    "timeline labels are frames at the `frameRate` of the project's Video tag; read as frames of the video (give"
    " the rate 24 if the tag has no frameRate, which is its default)"
)
SEVERAL = "tasks with several annotations (of several annotators?), which all count"


def is_export(value: Any) -> bool:
    """Return whether a JSON value looks like an export of Label Studio."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    first = value[0]
    return ("data" in first and "annotations" in first) or ("annotation_id" in first and "annotator" in first)


def _video(task: dict[str, Any], path: Path) -> str:
    """Return the file name of a task's video: the first value that names a video, without the prefix of uploads."""
    data = task.get("data", task)
    values = [task.get("file_upload"), data.get("video"), *data.values()]
    for value in values:
        if isinstance(value, str) and is_video(value.split("?")[0].split("#")[0]):
            name = re.split(r"[/\\=]", value.split("#")[0].split("?")[0])[-1]
            uploaded = "/upload/" in value or value == task.get("file_upload")
            return UPLOAD.sub("", name, count=1) if uploaded else name
    raise TadError(f"{path}: task {task.get('id', '?')}: no value names a video file; export it as JSON again")


def _finished(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the annotations of a task that were not cancelled."""
    return [a for a in task.get("annotations") or [] if isinstance(a, dict) and not a.get("was_cancelled")]


def _segments(task: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield an entry and `{ranges, timelinelabels}` for each result of a task, in JSON or JSON-MIN."""
    for annotation in _finished(task):
        for result in annotation.get("result") or []:
            if isinstance(result, dict) and isinstance(result.get("value"), dict):
                yield f"result '{result.get('id', '?')}'", result["value"]
    if "annotations" not in task:
        for key, values in task.items():
            for value in values if isinstance(values, list) else []:
                if isinstance(value, dict):
                    yield f"'{key}'", value


def read(path: Path) -> Table:
    """Read an export of Label Studio into a table.

    Labels of a video's timeline are in frames; a rate in the task's data (`fps` or `frameRate`) is used. Labels of its
    sound (`start`, `end`, `labels`) are in seconds. Other results, such as boxes, are ignored.

    Raises:
        TadError: the file is not an export, a task names no video, or both units occur.
    """
    tasks = expect(load_json(path), list, "the file", path, TOOL)
    frames, seconds = Collector("label_studio", path, unit="frames"), Collector("label_studio", path)
    used: set[str] = set()
    for task in tasks:
        task = expect(task, dict, "a task", path, TOOL)
        name, data = _video(task, path), task.get("data", task)
        rate = next((data[key] for key in ("fps", "frameRate", "framerate", "frame_rate") if key in data), None)
        for collector in (frames, seconds):
            collector.video(name, rate=rate)
            collector.counted[SEVERAL] += len(_finished(task)) > 1
        for entry, value in _segments(task):
            place = f"task {task.get('id', '?')}, {entry}"
            for label in value.get("timelinelabels") or []:
                for part in expect(value.get("ranges"), list, f"'ranges' of {place}", path, TOOL):
                    part = expect(part, dict, f"a range of {place}", path, TOOL)
                    frames.add(name, part.get("start"), part.get("end"), label, place)
                    used.add("frames")
            for label in (value.get("labels") or []) if "start" in value and "end" in value else []:
                seconds.add(name, value["start"], value["end"], label, place)
                used.add("seconds")
    if used == {"frames", "seconds"}:
        raise TadError(f"{path}: has labels of the timeline (frames) and of the sound (seconds); export one of the two")
    found = seconds if used == {"seconds"} else frames
    if found is frames and used and not frames.has_rates():
        frames.notes.append(FRAMES)
    return found.table()
