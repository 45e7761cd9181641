"""BORIS: projects (.boris), tabular events and aggregated events (CSV, TSV or spreadsheet)."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tad.annotations.table import Table, Video
from tad.core.errors import TadError
from tad.core.files import publish
from tad.datasets._csv import read_sheet
from tad.datasets._formats._collect import Collector, expect, media_name, milliseconds
from tad.datasets._parse import load_json

TOOL = "BORIS"
PLAYER = re.compile(r"player\s*#\s*1\s*:\s*([^|]*)", re.IGNORECASE)
POINT, START, STOP = "POINT", "START", "STOP"
POINTS = "point events"
SUBJECTS = "events have a subject; the behaviour alone is the label"
MODIFIERS = "events have modifiers; the behaviour alone is the label"
# The fields of an event in a project.
TIME, SUBJECT, CODE, MODIFIER = range(4)


def is_table(header: Sequence[str]) -> bool:
    """Return whether a header is that of tabular or aggregated events."""
    names = {name.casefold() for name in header}
    return "behavior" in names and bool({"observation id", "media file name", "media file"} & names)


def is_project(value: Any) -> bool:
    """Return whether a JSON value looks like a project of BORIS."""
    return isinstance(value, dict) and {"observations", "behaviors_conf"} <= set(value)


def _name(path: str) -> str:
    return re.split(r"[/\\]", path.strip())[-1]


class _Media:
    """The media files of an observation, played one after the other, with their starts in seconds."""

    def __init__(self, files: Sequence[str], durations: Sequence[float | None], where: str) -> None:
        self.files, self.durations, self.where = [_name(file) for file in files], list(durations), where
        self.starts = [0.0]
        for duration in self.durations[:-1]:
            self.starts.append(self.starts[-1] + (duration or 0.0))
        if len(self.files) > 1 and any(not duration for duration in self.durations[:-1]):
            raise TadError(f"{where}: several media files, and their durations are not stated; export one file each")

    def place(self, time: float) -> tuple[str, float]:
        """Return the file that is played at a time of the observation, and when it starts."""
        k = max(k for k, start in enumerate(self.starts) if k == 0 or time >= start)
        return self.files[k], self.starts[k]


# -- tables ------------------------------------------------------------------------------------------------------------


def _media_of(row: Mapping[str, str], found: Collector, where: str) -> _Media:
    """Return the media of a row: those of player 1 in the column Source, else the file of the event."""
    match = PLAYER.search(row.get("source", ""))
    files = [file for file in (match[1] if match else "").split(";") if file.strip()]
    if not files:
        own = row.get("media file name") or row.get("media file path") or row.get("media file") or ""
        files = [own if own.upper() != "NA" else ""] if own else []
    if not files or not files[0]:
        raise TadError(f"{where}: no media file (a live observation?); only observations of videos can be used")
    lengths = [part for part in re.split(r"[;|]", row.get("media duration (s)", ""))][: len(files)]
    durations = [_number(text, found, where) for text in lengths] + [None] * (len(files) - len(lengths))
    return _Media(files, durations, where)


def _number(text: str, found: Collector, where: str) -> float | None:
    return None if not text.strip() or text.strip().upper() == "NA" else found.times.read(text.strip(), where)


def _rate(row: Mapping[str, str]) -> str:
    return re.split(r"[;|]", row.get("fps") or row.get("fps (frame/s)") or "")[0]


def read_table(path: Path) -> Table:
    """Read tabular events (START, STOP, POINT) or aggregated events (Start, Stop) of BORIS into a table.

    The behaviour is the label. Times of observations with several media files are converted to times in each file.

    Raises:
        TadError: columns are missing, a START has no STOP, or an observation has no media file.
    """
    sheet = read_sheet(path)
    found = Collector("boris", path)
    rows = []
    for number, cells in sheet.rows:
        rows.append((number, {name.casefold(): cell for name, cell in zip(sheet.header, cells, strict=True)}))
    names = {name.casefold() for name in sheet.header}
    if {"start (s)", "stop (s)"} <= names:
        for number, row in rows:
            where = found.where(f"line {number}")
            start, end = (found.times.read(row[key], where) for key in ("start (s)", "stop (s)"))
            _add(found, row, start, end, f"line {number}", aggregated=True)
    elif {"behavior type", "time"} <= names or {"status", "time"} <= names:
        for row, start, end, entry in _paired(rows, found):
            _add(found, row, start, end, entry, aggregated=False)
    else:
        raise TadError(f"{path}: line {sheet.header_line}: neither 'Start (s)', 'Stop (s)' nor 'Time'; export it again")
    return found.table()


def _add(found: Collector, row: Mapping[str, str], start: float, end: float, entry: str, *, aggregated: bool) -> None:
    where = found.where(entry)
    media = _media_of(row, found, where)
    name, offset = media.place(start)
    found.video(name, duration=media.durations[media.files.index(name)], rate=_rate(row))
    subject = row.get("subject", "")
    found.counted[SUBJECTS] += bool(subject) and subject.casefold() != "no focal subject"
    found.counted[MODIFIERS] += any(bool(cell) for key, cell in row.items() if key.startswith("modifier"))
    if row.get("behavior type", "").upper() == POINT:
        end = start
    found.counted[POINTS] += end == start
    found.add(name, round(start - offset, 6), round(end - offset, 6), row["behavior"], entry)


Event = tuple[int, dict[str, str]]


def _paired(rows: Sequence[Event], found: Collector) -> Iterator[tuple[dict[str, str], float, float, str]]:
    """Pair each START with the next STOP of its observation, subject, behaviour and modifiers."""
    open_events: dict[tuple[str, ...], tuple[int, float]] = {}
    for number, row in rows:
        where = found.where(f"line {number}")
        modifiers = [cell for key, cell in sorted(row.items()) if key.startswith("modifier")]
        key = (row.get("observation id", ""), row.get("subject", ""), row["behavior"], *modifiers)
        kind = (row.get("behavior type") or row.get("status") or "").upper()
        time = found.times.read(row["time"], where)
        if kind == START and key not in open_events:
            open_events[key] = number, time
        elif kind == STOP and key in open_events:
            first, start = open_events.pop(key)
            yield row, start, time, f"lines {first} and {number}"
        elif kind == POINT:
            yield row, time, time, f"line {number}"
        else:
            cause = "no START before it" if kind == STOP else f"'{kind}' does not fit the events above it"
            raise TadError(f"{where}: {row['behavior']}: {cause}; check the events' state in BORIS (Observations menu)")
    for key, (number, _) in open_events.items():
        raise TadError(f"{found.where(f'line {number}')}: {key[2]}: START without STOP; complete the event in BORIS")


# -- projects ----------------------------------------------------------------------------------------------------------


def read_project(path: Path) -> Table:
    """Read a project of BORIS into a table: the events of all observations of videos.

    Raises:
        TadError: the file is not a project, or a state event has no end.
    """
    project = expect(load_json(path), dict, "the file", path, TOOL)
    found = Collector("boris", path)
    behaviours = expect(project.get("behaviors_conf") or {}, dict, "'behaviors_conf'", path, TOOL)
    state = {str(b.get("code")): "state" in str(b.get("type", "")).casefold() for b in behaviours.values()}
    for name, observation in expect(project.get("observations"), dict, "'observations'", path, TOOL).items():
        where = found.where(f"observation '{name}'")
        observation = expect(observation, dict, f"observation '{name}'", path, TOOL)
        files = (observation.get("file") or {}).get("1") or []
        if observation.get("type", "MEDIA") != "MEDIA" or not files:
            found.counted["observations without a video are ignored"] += 1
            continue
        info = observation.get("media_info") or {}
        lengths, rates = info.get("length") or {}, info.get("fps") or {}
        media = _Media(files, [lengths.get(file) for file in files], where)
        for file in files:
            found.video(_name(file), duration=lengths.get(file), rate=rates.get(file))
        rows = _events(observation.get("events") or [], state, where)
        for row, start, end, entry in _paired(rows, found):
            file, offset = media.place(start)
            found.counted[SUBJECTS] += bool(row["subject"])
            found.counted[MODIFIERS] += bool(row["modifier"])
            found.counted[POINTS] += end == start
            place = entry.replace("lines", "events").replace("line", "event")
            begin, stop = round(start - offset, 6), round(end - offset, 6)
            found.add(file, begin, stop, row["behavior"], f"observation '{name}', {place}")
    return found.table()


def _events(events: Sequence[Any], state: Mapping[str, bool], where: str) -> list[Event]:
    """Return a project's events as rows of tabular events: those of a state alternate between START and STOP."""
    is_open: dict[tuple[str, ...], bool] = {}
    rows = []
    for number, event in enumerate(sorted(events, key=lambda e: float(e[TIME])), 1):
        if not isinstance(event, list) or len(event) <= MODIFIER:
            raise TadError(f"{where}: event {number} is not [time, subject, code, modifier, …]; save the project again")
        key = tuple(str(event[k]) for k in (SUBJECT, CODE, MODIFIER))
        kind = POINT
        if state.get(key[1], False):
            kind = STOP if is_open.get(key) else START
            is_open[key] = kind == START
        row = {"time": str(event[TIME]), "subject": key[0], "behavior": key[1], "modifier": key[2], "status": kind}
        rows.append((number, row))
    return rows


def _observed(video_id: str, video: Video, path: Path) -> list[list[Any]]:
    """Return the events of an observation, sorted by time: a start and a stop for each segment, one for a point.

    Raises:
        TadError: two instances of one label overlap, which BORIS cannot hold.
    """
    events: list[list[Any]] = []
    last: dict[str, int] = {}
    for (start, end), instance in sorted(((milliseconds(i), i) for i in video.instances), key=lambda pair: pair[0]):
        if start < last.get(instance.label, 0):
            raise TadError(
                f"{path}: video '{video_id}': two instances of '{instance.label}' overlap at {start / 1000:g} s,"
                " which BORIS cannot hold; suppress more strongly (nms), or raise the threshold"
            )
        last[instance.label] = end
        comment = "" if instance.score is None else f"score {instance.score:.3f}"
        for time in (start,) if start == end else (start, end):
            events.append([time / 1000, "", instance.label, "", comment, "NA"])
    return sorted(events, key=lambda event: event[0])


def _observation(video: Video, media: str, events: list[list[Any]]) -> dict[str, Any]:
    """Return the observation of a video, whose file is `media`."""
    return {
        "file": {str(k): [media] if k == 1 else [] for k in range(1, 9)},
        "type": "MEDIA",
        "date": "2000-01-01T00:00:00",
        "description": "",
        "time offset": 0.0,
        "events": events,
        "observation time interval": [0, 0],
        "independent_variables": {},
        "visualize_spectrogram": False,
        "visualize_waveform": False,
        "close_behaviors_between_videos": False,
        "media_info": {
            "length": {media: video.duration or 0.0},
            "fps": {media: video.rate or 0.0},
            "hasVideo": {media: True},
            "hasAudio": {media: False},
            "offset": {"1": 0.0},
        },
    }


def _behaviour(label: str, *, point: bool) -> dict[str, str]:
    """Return the definition of a label."""
    empty = dict.fromkeys(("key", "description", "color", "category", "modifiers", "excluded", "coding map"), "")
    return {"type": "Point event" if point else "State event", "code": label, **empty}


def write_project(table: Table, path: Path, files: Mapping[str, Path]) -> None:
    """Write a project of BORIS with one observation per video, in milliseconds; scores are comments.

    Raises:
        TadError: two instances of one label and video overlap, which BORIS cannot hold.
    """
    labels = sorted({i.label for video in table.videos.values() for i in video.instances})
    points = {i.label for video in table.videos.values() for i in video.instances if i.start == i.end}
    observations = {}
    for video_id, video in table.videos.items():
        media = str(files[video_id].resolve()) if video_id in files else media_name(video_id, files)
        observations[video_id] = _observation(video, media, _observed(video_id, video, path))
    _check_kinds(table, path, points)
    project = {
        "time_format": "hh:mm:ss",
        "project_date": "2000-01-01T00:00:00",
        "project_name": path.stem,
        "project_description": "",
        "project_format_version": "7.0",
        "subjects_conf": {},
        "behaviors_conf": {str(k): _behaviour(label, point=label in points) for k, label in enumerate(labels)},
        "observations": observations,
        "behavioral_categories": [],
        "independent_variables": {},
        "coding_map": {},
        "behaviors_coding_map": [],
        "converters": {},
    }
    with publish(path) as partial:
        partial.write_text(json.dumps(project, indent=1, ensure_ascii=False), encoding="utf-8")


def _check_kinds(table: Table, path: Path, points: set[str]) -> None:
    """Refuse labels that are points in time and segments, because a behaviour of BORIS is one of the two."""
    for video in table.videos.values():
        for instance in video.instances:
            if instance.label in points and instance.start != instance.end:
                raise TadError(f"{path}: '{instance.label}' is a point in time and a segment; BORIS allows one of them")
