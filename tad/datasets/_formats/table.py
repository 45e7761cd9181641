"""The table of annotation formats: recognise a file or folder, read it into a table, write a table.

`read` and `write` are the whole interface. Tables of `read` have no split ("") where the file states none.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tad.annotations.table import Table, Video
from tad.core.errors import Remedy, TadError
from tad.core.file_kinds import other_kind
from tad.core.ids import LABEL_EXTENSIONS
from tad.core.storage import expect_readable
from tad.core.strict_json import type_name
from tad.datasets._csv import read_sheet
from tad.datasets._csv_text import delimiter_of
from tad.datasets._formats import (
    _collect,
    audacity,
    boris,
    cvat,
    elan,
    fiftyone,
    label_studio,
    nwb,
    plain,
    soccernet,
    subtitles,
    thumos_text,
    via,
)
from tad.datasets._parse import labels_of, load_json
from tad.datasets._spreadsheet import SPREADSHEETS
from tad.datasets._text import lines_of, read_text, tidy
from tad.settings.plugins import nearest

log = logging.getLogger(__name__)

NO_FILES: Mapping[str, Path] = MappingProxyType({})
Reader = Callable[..., Table]  # of one file; with the keyword `unit` if `Format.columns`
Writer = Callable[[Table, Path, Mapping[str, Path]], None]


@dataclass(frozen=True)
class Format:
    """An annotation format.

    Attributes:
        title: the tool and the kind of file, for messages.
        suffix: the extension of written files.
        read: reads one file.
        write: writes a table; None if the format is only read.
        per_video: whether a file holds one video, which is called like the file.
        halves: whether videos of several files have the same names, which the names of their folders tell apart.
        columns: whether files are tables that may state their unit, in the names of columns or in one of their own.
        unit: the unit that all files of this format have by its definition; empty if it may vary.
    """

    title: str
    suffix: str
    read: Reader
    write: Writer | None = None
    per_video: bool = False
    halves: bool = False
    columns: bool = False
    unit: str = ""


CLOCK, IN_COLUMNS = "clock times", "the unit that their columns name"
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "csv": Format("CSV, TSV or spreadsheet", ".csv", plain.read_csv, plain.write_csv, columns=True),
        "activitynet": Format("ActivityNet JSON", ".json", plain.read_activitynet, plain.write_activitynet),
        "epic": Format("EPIC-KITCHENS CSV", ".csv", plain.read_epic, columns=True),
        "thumos_text": Format("THUMOS'14 text files", ".txt", thumos_text.read),
        "elan": Format("ELAN (.eaf)", ".eaf", elan.read_eaf, elan.write_eaf, per_video=True, unit="milliseconds"),
        "elan_tab": Format("ELAN, tab-delimited text", ".txt", elan.read_tab, per_video=True, unit=IN_COLUMNS),
        "via": Format("VIA 3 project", ".json", via.read_project),
        "via_csv": Format("VIA 3, CSV of segments", ".csv", via.read_csv),
        "label_studio": Format("Label Studio JSON", ".json", label_studio.read),
        "cvat": Format("CVAT for video 1.1", ".xml", cvat.read),
        "soccernet": Format(
            "SoccerNet Labels-v2.json",
            ".json",
            soccernet.read,
            soccernet.write,
            per_video=True,
            halves=True,
            unit="milliseconds",
        ),
        "boris": Format("BORIS project", ".boris", boris.read_project, boris.write_project, unit="seconds"),
        "boris_table": Format("BORIS, tabular or aggregated events", ".csv", boris.read_table),
        "fiftyone": Format("FiftyOne temporal detections", ".json", fiftyone.read),
        "audacity": Format("Audacity labels", ".txt", audacity.read, per_video=True),
        "srt": Format(
            "SubRip subtitles (.srt)", ".srt", subtitles.read_srt, subtitles.write_srt, per_video=True, unit=CLOCK
        ),
        "vtt": Format("WebVTT (.vtt)", ".vtt", subtitles.read_vtt, subtitles.write_vtt, per_video=True, unit=CLOCK),
        "nwb": Format("NWB EthogramBouts", ".nwb", nwb.read),
    }
)
BY_SUFFIX: Mapping[str, str] = MappingProxyType(
    {".eaf": "elan", ".srt": "srt", ".vtt": "vtt", ".boris": "boris", ".nwb": "nwb", ".xml": "cvat"}
)
BY_JSON: tuple[tuple[str, Callable[[Any], bool]], ...] = (
    ("activitynet", plain.is_activitynet),
    ("via", via.is_project),
    ("boris", boris.is_project),
    ("fiftyone", fiftyone.is_labels),
    ("soccernet", soccernet.is_labels),
    ("label_studio", label_studio.is_export),
)
BY_HEADER: tuple[tuple[str, Callable[[Sequence[str]], bool]], ...] = (
    ("boris_table", boris.is_table),
    ("epic", plain.is_epic),
)
TEXTS = (".csv", ".tsv", ".txt")
WRITTEN = tuple(name for name, form in FORMATS.items() if form.write)
SHOWN = 3
HEAD = 64  # bytes that tell the kind of a file


def _of_json(path: Path) -> str:
    value = load_json(path)
    for name, fits in BY_JSON:
        if fits(value):
            return name
    kind = f"keys {', '.join(list(map(str, value))[:6])}" if isinstance(value, dict) else type_name(value)
    raise TadError(f"{path}: JSON of an unknown layout ({kind}); {_known()}")


def _known() -> str:
    return f"known formats: {', '.join(form.title for form in FORMATS.values())}"


def _of_text(path: Path) -> str:
    text = read_text(path)
    if via.is_csv(text):
        return "via_csv"
    lines = [line for line in lines_of(text) if line.strip()]
    rows = [line for line in lines if not line.lstrip('"').startswith(("#", "\\"))] or lines
    cells = [tidy(cell) for cell in rows[0].split("\t")]
    if elan.is_tab_export(cells):
        return "elan_tab"
    if audacity.is_labels(cells):
        return "audacity"
    if thumos_text.part_of(path) and thumos_text.is_line(rows[0]):
        return "thumos_text"
    return _of_header([tidy(cell).strip('"') for cell in rows[0].split(delimiter_of(rows[0]))])


def _of_header(header: Sequence[str]) -> str:
    return next((name for name, fits in BY_HEADER if fits(header)), "csv")


def _of_file(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in BY_SUFFIX:
        return BY_SUFFIX[suffix]
    if suffix == ".json":
        return _of_json(path)
    if suffix in SPREADSHEETS:
        return _of_header(read_sheet(path).header)
    if suffix in TEXTS:
        return _of_text(path)
    with open(path, "rb") as handle:
        if what := other_kind(handle.read(HEAD)):
            raise TadError(f"{path}: {what}")
    raise TadError(f"{path}: no annotation file is called {suffix or 'without a suffix'}; {_known()}")


def files_in(source: Path) -> list[Path]:
    """Return the annotation files in a folder and its subfolders, or the file itself; other files are ignored.

    Raises:
        TadError: there is no such file, or no annotation file in the folder.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    expect_readable(source)
    if not source.is_dir():
        raise TadError(f"{source}: no such file or folder; give the file or folder that your annotation tool exported")
    found = sorted(
        p for p in source.rglob("*") if p.suffix.lower() in LABEL_EXTENSIONS and p.is_file() and not _hidden(p)
    )
    if not found:
        raise TadError(f"{source}: no annotation file in this folder; {_known()}")
    return found


def _hidden(path: Path) -> bool:
    return path.name.startswith(("._", ".~", "~$"))


def recognise(source: Path) -> str:
    """Return the name of the format of a file, or of all annotation files in a folder.

    Raises:
        TadError: the layout is unknown, or the files in the folder have different formats.
    """
    found: dict[str, list[Path]] = {}
    for path in files_in(source):
        found.setdefault(_of_file(path), []).append(path)
    if len(found) > 1:
        shown = "; ".join(f"{FORMATS[name].title}: {paths[0].name} …" for name, paths in list(found.items())[:SHOWN])
        raise TadError(f"{source}: files of several formats ({shown}); give one file, or a folder with one kind")
    return next(iter(found))


def _require(name: str) -> Format:
    if name not in FORMATS:
        raise TadError(f"annotation format '{name}'; {nearest(name, list(FORMATS))}")
    return FORMATS[name]


def read(source: Path, *, tool: str = "", unit: str = "") -> Table:
    """Read a file, or all files of a folder, into one table, unchecked.

    Args:
        source: file or folder.
        tool: a key of `FORMATS`; empty: recognised.
        unit: seconds, milliseconds or frames, of times that would be read as seconds; empty: seconds.

    Raises:
        TadError: the format is unknown or a file is invalid, or states another unit; the message names the file and the
            entry.
    """
    name = tool or recognise(source)
    form = _require(name)
    if form.unit and unit not in ("", "seconds", form.unit):
        raise TadError(
            f"{source}: times of {form.title} are in {form.unit}, but the setting unit says {unit}; ",
            Remedy("stated unit", "remove `unit` from the settings of the data set", unit),
        )
    videos: dict[str, Video] = {}
    notes: dict[str, None] = {}
    paths = files_in(source)
    for path in paths:
        try:
            table = _read_file(form, path, unit)
        except TadError as error:
            if tool and (other := _other(form, path)):
                found = f"{path}: looks like {FORMATS[other].title}, and is read as {form.title}"
                raise TadError(f"{found}; ", Remedy("tool", f"set `tool: {other}`", other)) from error
            raise
        if form.halves and len(paths) > 1:
            table = _of_folder(table, path.parent.name)
        notes |= dict.fromkeys(table.notes)
        for video_id, video in table.videos.items():
            videos[video_id] = _merged(videos[video_id], video, path, video_id) if video_id in videos else video
    labels = tuple(label for label in labels_of(videos) if label)
    return Table(name, labels, videos, notes=tuple(notes), source=str(source))


def _other(form: Format, path: Path) -> str:
    """Return the format that a file looks like if it is another one; empty otherwise."""
    try:
        name = _of_file(path)
    except (TadError, OSError):
        return ""
    return "" if FORMATS[name] is form else name


def _of_folder(table: Table, folder: str) -> Table:
    """Return the table with the folder's name before those of the videos `1` and `2`."""
    return replace(table, videos={f"{folder}_{v}" if v in ("1", "2") else v: x for v, x in table.videos.items()})


def _read_file(form: Format, path: Path, unit: str) -> Table:
    """Read one file. Values of unexpected types are reported like all errors of a file."""
    try:
        if form.columns:
            return form.read(path, unit=unit)
        table = form.read(path)
        changed = "" if form.unit else unit  # such a format has been read in its own unit
        return replace(table, videos={v: video.in_unit(changed) for v, video in table.videos.items()})
    except TadError:
        raise
    except (TypeError, AttributeError, KeyError, ValueError, IndexError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise TadError(f"{path}: not in the layout of {form.title} ({cause:.80}); export it again") from error


def _merged(one: Video, other: Video, path: Path, video_id: str) -> Video:
    """Return a video with the instances of both files.

    Raises:
        TadError: the files contradict each other: in the split, or one is in seconds and the other in frames of an
            unknown rate.
    """
    if one.split and other.split and one.split != other.split:
        raise TadError(
            f"{path}: video '{video_id}' is in {other.split} here and in {one.split} in another file; keep one split"
        )
    rate = one.rate or other.rate
    one, other = one.in_seconds(rate), other.in_seconds(rate)
    if one.in_frames != other.in_frames and one.instances and other.instances:
        raise TadError(
            f"{path}: the times of video '{video_id}' are {'frames' if other.in_frames else 'seconds'} here and"
            f" {'frames' if one.in_frames else 'seconds'} in another file, and no file states its frame rate; export"
            " both in one unit"
        )
    return replace(
        one,
        split=one.split or other.split,
        duration=one.duration if other.duration is None else other.duration,
        rate=rate,
        instances=(*one.instances, *other.instances),
        in_frames=one.in_frames or other.in_frames,
    )


def write(table: Table, path: Path, *, tool: str, files: Mapping[str, Path] = NO_FILES) -> list[Path]:
    """Write a table in the format of an annotation tool and return the files.

    Formats with one file per video write to `path` if it has the format's suffix and the table has one video;
    otherwise `path` is a folder, which receives `<video id><suffix>` for each video.

    Args:
        table: instances with labels, and perhaps scores, in seconds.
        path: file or folder.
        tool: a key of `FORMATS` whose format is written (`WRITTEN`).
        files: video id → file, which some formats name, so that the tool opens the video.

    Raises:
        TadError: the format is not written, or it cannot hold the table.
    """
    form = _require(tool)
    if form.write is None:
        raise TadError(f"annotation format '{tool}' cannot be written; choose one of {', '.join(WRITTEN)}")
    _collect.writable(table, path)
    path = Path(path)
    if not form.per_video:
        form.write(table, path, files)
        return [path]
    if len(table.videos) == 1 and path.suffix.lower() == form.suffix:
        form.write(table, path, files)
        return [path]
    path.mkdir(parents=True, exist_ok=True)
    written = []
    for video_id, video in table.videos.items():
        written.append(path / f"{video_id}{form.suffix}")
        form.write(replace(table, videos={video_id: video}), written[-1], files)
    return written
