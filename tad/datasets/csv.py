"""Read custom data from a CSV file (`video,start,end,label`) into an annotation table."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tad.annotations.checks import NO_VALUES
from tad.annotations.table import Instance, Table, Video
from tad.core.errors import Remedy, TadError
from tad.datasets._columns import UNIT_ENDS, Columns, columns_of, plain
from tad.datasets._csv import Sheet, read_sheet
from tad.datasets._names import VideoNames
from tad.datasets._parse import (
    NOTHING,
    SPLIT_NAMES,
    beside,
    labels_of,
    our_split,
    read_durations,
)
from tad.datasets._splits import split_and_label, split_file, without_rows
from tad.datasets._times import Times, has_decimal_commas, rate_of
from tad.datasets.csv_settings import Settings
from tad.settings import plugins

SHORTENED = re.compile(r"\d[.,]\d+[Ee]\+\d+")  # Excel's form of numbers with more than 11 digits


UNIT = "unit"  # name of the column in which a file states the unit of its times; all labels that tad writes have it
UNIT_WORDS = {word: unit for unit, words in UNIT_ENDS.items() for word in words} | {"clock": "clock"}


@dataclass
class _Video:
    """The data of one video, collected from its rows."""

    split: str = ""
    duration: float | None = None
    rate: float = 0.0
    instances: list[Instance] = field(default_factory=list)


class _Reader:
    """Collect the videos of one file from its rows."""

    def __init__(
        self, times: Times, *, splits: Mapping[str, str], by_video: Mapping[str, str], split: str, drawn: bool
    ) -> None:
        self.times, self.names = times, VideoNames()
        self.numbers = Times(
            decimal_commas=times.decimal_commas
        )  # durations are in seconds, whatever the unit of the times
        self.splits, self.by_video, self.split, self.drawn = splits, by_video, split, drawn
        self.videos: dict[str, _Video] = {}
        self.left_out: set[str] = set()
        self.read_splits: dict[str, str] = {}  # names in the column split → ours

    def add(self, row: dict[str, str], number: int, where: str) -> None:
        """Add one row."""
        if not row["video"]:
            raise TadError(f"{where}: no video; give the id, which is the file's name without its suffix")
        if row["video"].casefold() in NO_VALUES:
            raise TadError(f"{where}: video '{row['video']}' stands for a missing value; give the name of the video")
        if SHORTENED.fullmatch(row["video"]):
            raise TadError(
                f"{where}: video '{row['video']}' is a number that a spreadsheet has shortened; write it out"
            )
        video = self.names.read(row["video"], where)
        split = self._split_of(row, video, where)
        above = None if video in self.left_out else self.videos[video].split if video in self.videos else split
        if split != above:
            names = {None: "excluded", "": "in no split"}
            one, other = (names.get(name) or f"in {name}" for name in (above, split))
            raise TadError(f"{where}: video '{video}' is {one} above and {other} here; keep one split")
        if split is None:
            self.left_out.add(video)
            return
        known = self.videos.setdefault(video, _Video(split))
        if row.get("duration"):
            length = self.numbers.read(row["duration"], where)
            if not 0 < length < math.inf:
                raise TadError(f"{where}: video '{video}' lasts {length:g} s; give its duration, or leave it out")
            if known.duration not in (None, length):
                before = known.duration
                raise TadError(f"{where}: video '{video}' lasts {length:g} s here, {before:g} s above; keep one")
            known.duration = length
        if row.get("fps"):
            rate = rate_of(row["fps"], f"{where}: video '{video}'")
            if known.rate and known.rate != rate:
                raise TadError(
                    f"{where}: video '{video}' has {rate:g} frames per second here, {known.rate:g} above; keep one"
                )
            known.rate = rate
        if row["start"] or row["end"] or row["label"]:
            start, end = self.times.read(row["start"], where), self.times.read(row["end"], where)
            known.instances.append(Instance(start, end, row["label"], f"line {number}"))

    def _split_of(self, row: dict[str, str], video: str, where: str) -> str | None:
        """Return the split of a video; empty if it is to be drawn, None if the video is excluded."""
        if row.get("split"):
            if row["split"] not in self.read_splits:
                self.read_splits[row["split"]] = our_split(row["split"], self.splits, where)
            return self.read_splits[row["split"]] or None
        if video in self.by_video:
            return self.by_video[video] or None
        if self.split or self.drawn:
            return self.split
        ways = (
            "add a column split, or the setting split_file (video,split), split (one for all) or test_share (drawn by"
            " seed, 0.2 for example)"
        )
        raise TadError(f"{where}: video '{video}' belongs to no split; {ways}")


def _stated_unit(sheet: Sheet, columns: Columns, setting: str) -> str:
    """Return the unit that the column `unit` of a file states; empty if it has none, or it is about something else.

    Unlike the names of columns, it is a statement about the times, which no setting may contradict: the labels that the
    page saves are in seconds, and a setting `unit: frames` for the labels before them may be left in config.yaml.

    Args:
        setting: the setting `unit`.

    Raises:
        TadError: the column states several units, or another one than the setting or the names of the columns.
    """
    place = next((k for k, name in enumerate(sheet.header) if plain(name) == UNIT), None)
    if place is None or sheet.header[place] in columns.names.values():
        return ""
    words = {cells[place].casefold(): number for number, cells in reversed(sheet.rows) if cells[place]}
    if not words or not set(words) <= set(UNIT_WORDS):
        return ""
    lines = sorted((number, UNIT_WORDS[word]) for word, number in words.items())
    number, unit = lines[0]
    where = f"{sheet.path}: line {number}: the column '{sheet.header[place]}' says {unit}"
    for line, other in lines:
        if other != unit:
            raise TadError(f"{where}, and {other} in line {line}; convert all times to one unit")
    if setting and setting != unit and {setting, unit} != {"seconds", "clock"}:  # clock times may be plain seconds
        raise TadError(
            f"{where}, but the setting unit says {setting}; ",
            Remedy("stated unit", "remove `unit` from the settings of the data set", setting),
            ", or correct the column",
        )
    if columns.unit and columns.unit != unit and not setting:
        raise TadError(f"{where}, but '{columns.names['start']}' is a column of {columns.unit}; correct one of them")
    return unit


def _notes(columns: Columns, sheet: Sheet, reader: _Reader, setting: str) -> tuple[str, ...]:
    """Describe accepted deviations from the format of docs/datasets.md, for the log; `setting`: the setting `unit`."""
    notes = [f"column '{theirs}' is {ours}" for ours, theirs in columns.taken.items()]
    used = "seconds" if reader.times.unit == "clock" else reader.times.unit
    if columns.unit and columns.unit != used:
        notes.append(f"times are {used}, as the setting unit says, although their columns say {columns.unit}")
    elif used != "seconds" and (columns.unit or not setting):
        notes.append(f"times are {used}, as their columns say")
    notes += sheet.notes
    if sheet.decomposed:
        notes.append(f"{sheet.decomposed} cells in decomposed Unicode form (composed now)")
    seen = {**reader.times.seen, **reader.names.seen}
    return (*notes, *(f"{count} {what}" for what, count in seen.items()))


def read(source: Path, settings: Settings) -> Table:
    """Read a CSV file into a table, unchecked (see `tad.annotations.checks.check`).

    Args:
        source: a file in UTF-8 or with a byte order mark, separated by commas, semicolons, tabs or `|`, with a header:
            video, start, end, label, and optionally split, duration (seconds), fps and unit (of start and end); other
            columns are ignored. A row with a video but without start, end and label is a video without instances.
        settings: see csv_settings.py; the frame rate applies to videos without a value in column fps.

    Raises:
        TadError: the file is invalid; the message names the file, the line, the value and the remedy.
    """
    source = Path(source)
    by_video = split_file(source, settings)
    durations = read_durations(beside(source, settings.duration_file)) if settings.duration_file else {}
    found, notes = _read_rows(source, settings, by_video=by_video)
    notes += without_rows(by_video, found, settings)
    if durations and not set(durations) & set(found):
        raise TadError(
            f"{beside(source, settings.duration_file)}: names none of the {len(found)} videos of {source.name}"
            f" ('{next(iter(durations))}' here, '{next(iter(found))}' there); write the ids alike"
        )
    unassigned = {video_id for video_id, video in found.items() if not video.split}
    videos = {
        video_id: replace(
            video,
            split=video.split or "train",
            duration=durations.get(video_id) if video.duration is None else video.duration,
            rate=video.rate or settings.rate or None,
        ).in_seconds()
        for video_id, video in found.items()
    }
    videos, labels, note = split_and_label(source, videos, settings, unassigned)
    return Table("csv", labels, videos, notes=(*notes, *note))


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Check settings of this format.

    Raises:
        TadError: unknown or invalid settings.
    """
    settings = plugins.checked("datasets", "csv", dict(given))
    assert isinstance(settings, Settings)
    return settings


def read_unassigned(source: Path, *, unit: str = "", columns: Mapping[str, str] = NOTHING) -> Table:
    """Read a CSV file as `read` does, but leave the split of videos without one empty.

    Raises:
        TadError: the file is invalid.
    """
    found, notes = _read_rows(source, settings_of({"unit": unit, "columns": dict(columns)}), by_video={}, drawn=True)
    videos = {video_id: video.in_seconds() for video_id, video in found.items()}
    return Table("csv", tuple(x for x in labels_of(videos) if x), videos, notes=notes)


def _read_rows(
    source: Path, settings: Settings, *, by_video: Mapping[str, str], drawn: bool = False
) -> tuple[dict[str, Video], tuple[str, ...]]:
    """Return the videos of a file, with times in its unit, and notes.

    A video's split is empty if none is stated and `drawn` is set, or the settings draw one.
    """
    sheet = read_sheet(source)
    header = columns_of(sheet.header, settings.columns, f"{source}: line {sheet.header_line}")
    rows_found = list(sheet.named(header.names))
    of_times = [key for key in ("start", "end", "duration", "fps") if key in header.names]
    cells = (row[key] for _, row in rows_found for key in of_times)
    commas = has_decimal_commas(cells, delimiter=sheet.delimiter)
    stated = _stated_unit(sheet, header, settings.unit)
    times = Times(settings.unit or stated or header.unit, decimal_commas=commas)
    reader = _Reader(
        times,
        splits={**SPLIT_NAMES, **settings.splits},
        by_video=by_video,
        split=settings.split,
        drawn=drawn or settings.test_share > 0,
    )
    for number, row in rows_found:
        reader.add(row, number, f"{source}: line {number}")
    if not rows_found:
        raise TadError(f"{source}: only a header, no rows; add a row for each instance")
    in_frames = times.unit == "frames"
    videos = {
        video_id: Video(
            video.split, video.duration, tuple(video.instances), rate=video.rate or None, in_frames=in_frames
        )
        for video_id, video in reader.videos.items()
    }
    return videos, _notes(header, sheet, reader, settings.unit)
