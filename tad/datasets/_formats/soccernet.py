"""SoccerNet: Labels-v2.json and results_spotting.json, whose events are points in time of a game's two halves."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tad.annotations.table import Instance, Table
from tad.core.errors import TadError
from tad.core.files import publish
from tad.datasets._formats._collect import Collector, expect
from tad.datasets._parse import load_json

TOOL = "SoccerNet"
GAME_TIME = re.compile(r"\s*(\d+)\s*-\s*\d+:\d{2}")
HALF = re.compile(r"(?:.*[_ -])?([12])")
LISTS = ("annotations", "predictions")


def is_labels(value: Any) -> bool:
    """Return whether a JSON value looks like labels or predictions of SoccerNet."""
    events = [value[key] for key in LISTS if isinstance(value.get(key), list)] if isinstance(value, dict) else []
    return bool(events) and (
        "UrlLocal" in value or any(isinstance(item, dict) and "gameTime" in item for item in events[0])
    )


def read(path: Path) -> Table:
    """Read the events of a game into a table, as points in time (start equals end).

    The videos are called `1` and `2` after the halves, as SoccerNet's files begin (1_720p.mkv). A file that tad wrote
    names its video. The confidence of predictions is their score.

    Raises:
        TadError: an event has no half, position or label.
    """
    labels = expect(load_json(path), dict, "the file", path, TOOL)
    found = Collector("soccernet", path)
    name = str(labels.get("video") or "")
    if name:
        found.video(name)
    key = next((key for key in LISTS if key in labels), LISTS[0])
    for k, event in enumerate(expect(labels.get(key), list, f"'{key}'", path, TOOL)):
        event = expect(event, dict, f"{key}[{k}]", path, TOOL)
        half = GAME_TIME.match(str(event.get("gameTime", "")))
        position = str(event.get("position", ""))
        if half is None or not position.isascii() or not position.isdigit():
            place = found.where(f"{key}[{k}]")
            raise TadError(f"{place}: no half and position; gameTime is '1 - 12:34', position is in milliseconds")
        time = int(position) / 1000
        score = _confidence(event.get("confidence"), found.where(f"{key}[{k}]"))
        found.add(name or half[1], time, time, event.get("label"), f"{key}[{k}]", score=score)
    return found.table()


def _confidence(value: Any, where: str) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        raise TadError(f"{where}: confidence {value!r:.40} is not a number; write one from 0 to 1") from None


def write(table: Table, path: Path, _files: Mapping[str, Path]) -> None:
    """Write the moments of a video as Labels-v2.json, or those with scores as results_spotting.json.

    A video whose name is, or ends in, 1 or 2 (after `_`, `-` or a space) is that half of a game, another one half 1.

    Raises:
        TadError: an instance has a length.
    """
    ((video_id, video),) = table.videos.items()
    long = next((i for i in video.instances if i.end > i.start), None)
    if long is not None:
        raise TadError(
            f"{path}: video '{video_id}': '{long.label}' {long.start:g}-{long.end:g} s has a length, and SoccerNet's"
            " events have one time; write another format, or spot moments (`kind: moments`)"
        )
    match = HALF.fullmatch(video_id)
    half, scored = match[1] if match else "1", any(i.score is not None for i in video.instances)
    events = [_event(instance, half, scored=scored) for instance in video.instances]
    document = {"UrlLocal": "", "video": video_id, LISTS[scored]: events}
    with publish(path) as partial:
        partial.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")


def _event(instance: Instance, half: str, *, scored: bool) -> dict[str, str]:
    position = round(instance.start * 1000)
    minutes, seconds = divmod(position // 1000, 60)
    event = {
        "gameTime": f"{half} - {minutes:02d}:{seconds:02d}",
        "label": instance.label,
        "position": str(position),
    }
    if scored:
        return event | {"half": half, "confidence": repr(instance.score or 0.0)}
    return event | {"team": "not applicable", "visibility": "visible"}
