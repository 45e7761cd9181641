"""Analyse labels for `tad new`: their format, their unit, the videos that they name, and a split."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tad.annotations.table import Table, Video
from tad.annotations.units import likely_unit, span_of
from tad.core.errors import TadError
from tad.core.printable import plural
from tad.datasets import csv as own_csv
from tad.datasets._formats import table as formats
from tad.datasets._formats.plain import EPIC_COLUMNS
from tad.datasets._parse import labels_of
from tad.datasets._splits import draw_test
from tad.datasets.annotation_tool import as_segments
from tad.settings import plugins
from tad.settings.plugins import nearest
from tad.video.base import av, reason

log = logging.getLogger(__name__)

OWN = {"csv": "csv", "epic": "csv", "activitynet": "activitynet"}  # tool → format of the row; others: annotation_tool
SEEDS = 200  # splits that are tried for one with every class among the test videos
SHOWN = 5
NO_TEST = "all videos are for training"


@dataclass(frozen=True)
class Clock:
    """Duration in seconds and frames per second of a video, as its container states them."""

    duration: float
    rate: float


@dataclass
class Findings:
    """Labels as `tad new` understood them.

    Attributes:
        format: the format of the data set's row.
        settings: the settings of the format.
        table: the labels in seconds, with durations, ids of files and splits.
        exclude: labelled videos without a file → reason.
        notes: sentences for the user.
        moments: whether all instances have one time.
    """

    format: str
    settings: dict[str, Any]
    table: Table
    exclude: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    moments: bool = False


def clock_of(path: Path) -> Clock:
    """Return what the container states; zeros if it cannot be opened. Only units are guessed from it."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            duration = float(container.duration or 0) / 1e6
            if not duration and stream.duration and stream.time_base:
                duration = float(stream.duration * stream.time_base)
            return Clock(duration, float(stream.average_rate or 0))
    except (OSError, ValueError, IndexError) as error:
        log.warning("%s: cannot be opened as a video (%s)", path, reason(error))
        return Clock(0.0, 0.0)


def read_labels(source: Path, *, tool: str, columns: Mapping[str, str], unit: str) -> Findings:
    """Read labels in any format; videos without a stated split have the split "".

    Raises:
        TadError: the format is unknown, or the file is invalid.
    """
    name = tool or formats.recognise(source)
    kind = OWN.get(name, "annotation_tool") if source.is_file() else "annotation_tool"
    settings: dict[str, Any] = {} if kind != "annotation_tool" else {"tool": name}
    if kind == "csv":
        names = {**(EPIC_COLUMNS if name == "epic" else {}), **columns}
        table = own_csv.read_unassigned(source, unit=unit, columns=names)
        settings |= {"columns": names} if names else {}
        settings |= {"unit": unit} if unit else {}
    elif columns or unit == "clock":
        option = "--columns" if columns else "--unit clock"
        raise TadError(f"{source}: {option} is for CSV files and spreadsheets, and this is {name}; leave it out")
    else:
        table = formats.read(source, tool=name, unit=unit)
        settings |= {"unit": unit} if unit else {}
    findings = Findings(kind, settings, table)
    count = sum(len(video.instances) for video in table.videos.values())
    findings.notes.append(
        f"labels: {formats.FORMATS[name].title}, {plural(count, 'instance')} of {plural(len(table.labels), 'class')} in"
        f" {plural(len(table.videos), 'video')}"
    )
    findings.notes += [f"labels: {note}" for note in table.notes]
    return findings


def _extends(longer: str, shorter: str) -> bool:
    """Return whether a name is another one and a suffix that begins with neither a letter nor a digit."""
    text, start = longer.casefold(), shorter.casefold()
    rest = text.removeprefix(start)
    return text.startswith(start) and rest != "" and not rest[0].isalnum()


def _file_of(name: str, files: Sequence[str]) -> str:
    """Return the only video file that a name of the labels can mean: equal but for case, or the name and a suffix."""
    folded = [file for file in files if file.casefold() == name.casefold()]
    longer = [file for file in files if _extends(file, name)]
    shorter = [file for file in files if _extends(name, file)]
    for matches in (folded, longer, shorter):
        if len(matches) == 1:
            return matches[0]
    return ""


def match_videos(findings: Findings, videos: Mapping[str, str], source: Path, folder: Path) -> None:
    """Give labelled videos the ids of the files; list those without a file in `exclude`.

    Raises:
        TadError: no labelled video has a file.
    """
    named = [video_id for video_id in findings.table.videos if video_id not in videos]
    free = [video_id for video_id in videos if video_id not in findings.table.videos]
    names = {name: file for name in named if (file := _file_of(name, free))}
    if len(named) == len(free) == len(findings.table.videos) == 1:
        names = {named[0]: free[0]}
    twice = {file for file, count in Counter(names.values()).items() if count > 1}
    names = {name: file for name, file in names.items() if file not in twice}
    missing = [name for name in named if name not in names]
    if len(missing) == len(findings.table.videos):
        raise TadError(
            f"{source}: none of its videos ({', '.join(missing[:SHOWN])}{' …' if len(missing) > SHOWN else ''}) is in"
            f" {folder} ({', '.join(list(videos)[:SHOWN])}{' …' if len(videos) > SHOWN else ''}); videos are named by"
            " their file names without extension"
        )
    if names:
        findings.notes.append("labels: " + ", ".join(f"'{name}' is the file {file}" for name, file in names.items()))
        findings.settings |= {"names": names}
        if findings.format != "annotation_tool":
            why = f"names of videos differ from those of their files ('{next(iter(names))}')"
            _as_tool(findings, source, why)
    findings.exclude = dict.fromkeys(missing, "no video file")
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (" …" if len(missing) > SHOWN else "")
        count = plural(len(missing), "labelled video")
        findings.notes.append(f"videos: {count} without a file in {folder}, excluded: {shown}")
    table = findings.table.videos
    findings.table = replace(findings.table, videos={names.get(v, v): x for v, x in table.items() if v not in missing})
    if left := [video_id for video_id in videos if video_id not in findings.table.videos]:
        shown = ", ".join(left[:SHOWN]) + (" …" if len(left) > SHOWN else "")
        findings.notes.append(f"videos: {plural(len(left), 'file')} without labels, not used: {shown}")


def _as_tool(findings: Findings, source: Path, why: str) -> None:
    """Let a CSV or JSON file be read by the format that can rename videos and widen points.

    Raises:
        TadError: the file needs options that this format does not have; the message says `why` that format is
            needed.
    """
    refused = f"{source}: {why}, which cannot be combined with"
    if "columns" in findings.settings:
        raise TadError(f"{refused} --columns; call the columns video, start, end and label")
    if findings.settings.get("unit") == "clock":
        raise TadError(f"{refused} --unit clock; write the times in seconds")
    findings.settings["tool"] = findings.format
    findings.format = "annotation_tool"


def set_times(
    findings: Findings, clocks: Mapping[str, Clock], *, rate: float, points: float, unit: str, source: Path
) -> None:
    """Convert frame numbers to seconds, and find out the unit and whether all are moments.

    Raises:
        TadError: there are points in time beside segments, and `points` is 0.
    """
    videos = findings.table.videos
    spans = [
        span_of(v, [(i.start, i.end) for i in video.instances], clocks[v].duration, clocks[v].rate or None)
        for v, video in videos.items()
        if video.instances and not video.in_frames and clocks[v].duration
    ]
    tool = findings.settings.get("tool", "")
    stated = unit or "unit" in findings.settings or (tool and formats.FORMATS[tool].unit)
    guess = None if stated else likely_unit(spans)
    if guess and guess.fits and guess.setting and not guess.doubtful:
        findings.settings["unit"] = guess.setting
        findings.notes.append(f"labels: times are {guess.words}, because as seconds they would end after their videos")
        videos = {v: video.in_unit(guess.setting) for v, video in videos.items()}
    if rate:
        findings.settings["rate"] = rate
    rates = {v: video.rate or rate or clocks[v].rate for v, video in videos.items()}
    if any(video.in_frames and video.instances for video in videos.values()):
        shown = ", ".join(sorted({f"{value:.4g}" for v, value in rates.items() if videos[v].instances})[:SHOWN])
        findings.notes.append(f"labels: times are frames, at {shown} per second")
    framed = [v for v, x in videos.items() if x.in_frames and any(i.start == i.end for i in x.instances)]
    videos = {v: video.in_seconds(rates[v] or None) for v, video in videos.items()}
    if points:
        if findings.format != "annotation_tool":
            _as_tool(findings, source, "--points makes segments of points in time")
        findings.settings["points"] = points
        if not rate:
            _state_rate(findings, framed, clocks, source)
    lengths = [i.end - i.start for video in videos.values() for i in video.instances]
    findings.moments = bool(lengths) and not points and not any(lengths)
    note = "all entries are points in time, so the data set has moments; --points 2 makes segments of 2 s of them"
    if not findings.moments:
        videos, note = as_segments(videos, points=points, source=source)
    findings.notes += [f"labels: {note}"] if note else []
    durations = {v: video.duration or clocks[v].duration or None for v, video in videos.items()}
    findings.table = replace(findings.table, videos={v: replace(x, duration=durations[v]) for v, x in videos.items()})


def _state_rate(findings: Findings, framed: Sequence[str], clocks: Mapping[str, Clock], source: Path) -> None:
    """Write the frame rate of the videos `framed` into the settings, because their times are frame numbers.

    Raises:
        TadError: they have several rates.
    """
    rates = sorted({round(clocks[v].rate, 6) for v in framed if not findings.table.videos[v].rate})
    if len(rates) > 1:
        shown = ", ".join(f"{value:g}" for value in rates[:SHOWN])
        raise TadError(
            f"{source}: the points in time are frames, and the videos have several frame rates ({shown} per second), so"
            " --points has no one length in frames; write the times in seconds, or give --rate"
        )
    if rates and rates[0]:
        findings.settings["rate"] = rates[0]


def _classes(videos: Mapping[str, Video], split: str) -> set[str]:
    return {i.label for video in videos.values() if video.split == split for i in video.instances}


def set_split(findings: Findings, *, share: float, split_file: str) -> None:
    """Take the splits that the labels state, or draw test videos with the first seed that covers most classes.

    If none can be drawn, because there is one video only or each has a class of its own, all videos are for training.

    Raises:
        TadError: `share` is not between 0 and 1, or the labels state some splits and the others cannot be drawn.
    """
    if not 0 < share < 1:
        raise TadError(f"--test-share {share:g}: give a share of the videos between 0 and 1, such as 0.2")
    videos = findings.table.videos
    unassigned = {v for v, video in videos.items() if not video.split}
    splits = {video.split for video in videos.values()}
    if split_file:
        findings.settings["split_file"] = split_file
        findings.notes.append(f"split: as {split_file} says")
        return
    if not unassigned and {"train", "test"} <= splits:
        counts = Counter(video.split for video in videos.values())
        numbers = ", ".join(f"{name} {counts[name]}" for name in ("train", "val", "test") if counts[name])
        findings.notes.append(f"split: as the labels say ({numbers} videos)")
        return
    trained = {v: replace(video, split=video.split or "train") for v, video in videos.items()}
    try:
        draw_test(trained, share=share, seed=0, unassigned=unassigned)
    except TadError as error:
        if (
            "split" not in plugins.defaults("datasets", findings.format)
            or "test" in splits
            or len(unassigned) < len(videos)
        ):
            raise
        findings.settings["split"] = "train"
        findings.table = replace(findings.table, videos=trained)
        findings.notes.append(
            f"split: {NO_TEST}, because {str(error).partition(': ')[2].partition(': ')[2].partition(';')[0]}; the run"
            " can be trained and applied, but not scored until you label more videos"
        )
        return
    best, chosen, drawn = -1, 0, trained
    wanted = len(labels_of(trained))
    for seed in range(SEEDS):
        tried, _ = draw_test(trained, share=share, seed=seed, unassigned=unassigned)
        covered = len(_classes(tried, "test"))
        if covered > best:
            best, chosen, drawn = covered, seed, tried
        if covered == wanted:
            break
    findings.settings |= {"test_share": share, "split_seed": chosen}
    findings.table = replace(findings.table, videos=drawn)
    tests = sorted(v for v, video in drawn.items() if video.split == "test")
    shown = ", ".join(tests[:SHOWN]) + (" …" if len(tests) > SHOWN else "")
    findings.notes.append(
        f"split: {len(tests)} of {len(drawn)} videos drawn for testing (seed {chosen}): {shown}; {best} of {wanted}"
        " classes occur in them"
    )


def parse_columns(texts: Sequence[str]) -> dict[str, str]:
    """Parse `video=Clip` into a mapping of our column names to the file's.

    Raises:
        TadError: a text has another form.
    """
    mapping = {}
    for text in texts:
        ours, equals, theirs = text.partition("=")
        if not equals or not theirs:
            raise TadError(
                f"--columns {text}: write video=Clip, for example; {nearest(ours, ['video', 'start', 'end'])}"
            )
        mapping[ours.strip()] = theirs.strip()
    return mapping
