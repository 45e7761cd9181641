"""ELAN: annotation files (.eaf) and the tab-delimited text export. Values of time-alignable annotations are labels."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.core.files import publish
from tad.datasets._csv import Sheet
from tad.datasets._formats._collect import Collector, is_video, media_name, milliseconds, read_xml
from tad.datasets._text import lines_of, read_text, tidy

TIER = "action"
MILLISECONDS = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")  # scripts write decimals; ELAN does not
SCHEMA_NAMESPACE = "http://www.w3.org/2001/XMLSchema-instance"
SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"


# -- .eaf --------------------------------------------------------------------------------------------------------------


def _milliseconds(text: str, where: str) -> float:
    """Convert a time of ELAN.

    Raises:
        TadError: it is not a number of milliseconds.
    """
    if not MILLISECONDS.fullmatch(text.strip()):
        raise TadError(f"{where} is '{text:.40}', not milliseconds; save the file in ELAN again")
    return float(text)


def _slots(root: ET.Element, path: Path) -> dict[str, float]:
    """Return time slot → milliseconds. ELAN spreads slots without a time evenly between their neighbours.

    Raises:
        TadError: a time is not a number.
    """
    slots = [(slot.get("TIME_SLOT_ID", ""), slot.get("TIME_VALUE")) for slot in root.iter("TIME_SLOT")]
    known = [
        (k, _milliseconds(value, f"{path}: TIME_VALUE of time slot '{name}'"))
        for k, (name, value) in enumerate(slots)
        if value is not None
    ]
    found = {slots[k][0]: value for k, value in known}
    for (before, low), (after, high) in pairwise(known):
        for k in range(before + 1, after):
            found[slots[k][0]] = low + (high - low) * (k - before) / (after - before)
    return found


def _media(root: ET.Element, path: Path) -> tuple[str, float]:
    """Return the name of the first video and its offset in milliseconds; empty and 0 if no media file is linked.

    Raises:
        TadError: the offset is not a number.
    """
    descriptors = list(root.iter("MEDIA_DESCRIPTOR"))
    names = [(d.get("RELATIVE_MEDIA_URL") or d.get("MEDIA_URL") or "", d.get("TIME_ORIGIN", "0")) for d in descriptors]
    videos = [(url, origin) for url, origin in names if is_video(url)] or names
    if not videos or not videos[0][0]:
        return "", 0.0
    url, origin = videos[0]
    name = re.split(r"[/\\]", unquote(url))[-1]
    return name, _milliseconds(origin or "0", f"{path}: TIME_ORIGIN of '{name}'")


def read_eaf(path: Path) -> Table:
    """Read an ELAN file into a table.

    Every time-alignable annotation is an instance, whatever its tier. In a tier whose annotations all have no value,
    the name of the tier is the label. Annotations that refer to other annotations are ignored.

    Raises:
        TadError: the file is no ELAN file, or an annotation has no time.
    """
    root = read_xml(path, "ANNOTATION_DOCUMENT", "ELAN")
    found, slots = Collector("elan", path), _slots(root, path)
    name, origin = _media(root, path)
    found.video(name)
    for tier in root.iter("TIER"):
        tier_id = tier.get("TIER_ID", "")
        aligned = list(tier.iter("ALIGNABLE_ANNOTATION"))
        values = [tidy(a.findtext("ANNOTATION_VALUE") or "") for a in aligned]
        named = bool(aligned) and not any(values)
        if named:
            found.notes.append(f"annotations of tier '{tier_id}' have no value; the tier's name is their label")
        if references := sum(1 for _ in tier.iter("REF_ANNOTATION")):
            found.counted["annotations that refer to others are ignored"] += references
        for annotation, value in zip(aligned, values, strict=True):
            entry = f"tier '{tier_id}', annotation {annotation.get('ANNOTATION_ID', '?')}"
            ends = [slots.get(annotation.get(f"TIME_SLOT_REF{k}", "")) for k in (1, 2)]
            if None in ends:
                raise TadError(f"{found.where(entry)}: its time slots have no time; align it in ELAN and save again")
            start, end = ((float(ms or 0) + origin) / 1000 for ms in ends)
            found.add(name, start, end, tier_id if named else value, entry)
    return found.table()


def write_eaf(table: Table, path: Path, files: Mapping[str, Path]) -> None:
    """Write the instances of the table's only video as an ELAN file with one tier, in milliseconds."""
    ((video_id, video),) = table.videos.items()
    facts = {"AUTHOR": "", "DATE": datetime(2000, 1, 1, tzinfo=UTC).isoformat(), "FORMAT": "3.0", "VERSION": "3.0"}
    ET.register_namespace("xsi", SCHEMA_NAMESPACE)
    root = ET.Element("ANNOTATION_DOCUMENT", facts | {f"{{{SCHEMA_NAMESPACE}}}noNamespaceSchemaLocation": SCHEMA})
    header = ET.SubElement(root, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    media = files.get(video_id)
    url = media.resolve().as_uri() if media else media_name(video_id, files)
    kind = "video/mp4" if url.lower().endswith((".mp4", ".m4v")) else "video/*"
    relative = f"./{media_name(video_id, files)}"
    ET.SubElement(header, "MEDIA_DESCRIPTOR", {"MEDIA_URL": url, "MIME_TYPE": kind, "RELATIVE_MEDIA_URL": relative})
    order = ET.SubElement(root, "TIME_ORDER")
    tier = ET.SubElement(root, "TIER", {"LINGUISTIC_TYPE_REF": "default-lt", "TIER_ID": TIER})
    spans = sorted((*milliseconds(instance), instance.label) for instance in video.instances)
    ends = sorted((time, k, side) for k, span in enumerate(spans) for side, time in enumerate(span[:2]))
    slot = {(k, side): f"ts{number}" for number, (_, k, side) in enumerate(ends, 1)}
    for number, (time, _, _) in enumerate(ends, 1):
        ET.SubElement(order, "TIME_SLOT", {"TIME_SLOT_ID": f"ts{number}", "TIME_VALUE": str(time)})
    for k, (_, _, label) in enumerate(spans):
        annotation = ET.SubElement(
            ET.SubElement(tier, "ANNOTATION"),
            "ALIGNABLE_ANNOTATION",
            {"ANNOTATION_ID": f"a{k + 1}", "TIME_SLOT_REF1": slot[k, 0], "TIME_SLOT_REF2": slot[k, 1]},
        )
        ET.SubElement(annotation, "ANNOTATION_VALUE").text = label
    linguistic = {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": "default-lt", "TIME_ALIGNABLE": "true"}
    ET.SubElement(root, "LINGUISTIC_TYPE", linguistic)
    ET.indent(root, "    ")
    with publish(path) as partial:
        ET.ElementTree(root).write(partial, encoding="UTF-8", xml_declaration=True)


# -- tab-delimited text ------------------------------------------------------------------------------------------------

# The units of ELAN's time columns, the clearest first.
UNITS = (("ss.msec", ""), ("msec", "ms"), ("hh:mm:ss.ms", ""), ("hh:mm:ss", ""))
CLOCK = re.compile(r"\d+:\d{2}:\d{2}(?:[.,]\d+)?")
FILE_COLUMNS = ("file name", "file path")
OTHER_COLUMNS = ("tier", "participant", "duration", "begin time", "end time", "annotator", *FILE_COLUMNS)


def is_tab_export(first: list[str]) -> bool:
    """Return whether these cells begin a tab-delimited export of ELAN: its header, or a row without one."""
    if any(cell.casefold().startswith("begin time") for cell in first):
        return True
    return len(first) >= 9 and sum(bool(CLOCK.fullmatch(cell)) for cell in first[:9]) >= 2


def _time(cells: Mapping[str, str], which: str) -> str:
    """Return the time in the column `Begin Time - …` or `End Time - …`, with its unit unless it is in seconds."""
    by_name = {name.casefold(): cell for name, cell in cells.items()}
    for unit, suffix in UNITS:
        if cell := by_name.get(f"{which} - {unit}"):
            return cell + suffix
    return next((cell for name, cell in by_name.items() if name.startswith(which)), "")


def _media_line(lines: list[str]) -> str:
    """Return the name of the annotation or video file in ELAN's comment lines (`#C:/clips/clip.eaf -- offset: 0 …`)."""
    for line in lines:
        name = re.split(r"[/\\]", re.split(r"\s+--\s+", tidy(line).strip('"').lstrip("#"))[0].strip())[-1]
        if is_video(name) or name.lower().endswith(".eaf"):
            return name
    return ""


def _without_eaf(name: str) -> str:
    return re.sub(r"\.eaf$", "", re.split(r"[/\\]", name)[-1], flags=re.IGNORECASE)


def _with_header(sheet: Sheet, found: Collector, name: str) -> None:
    values = [c for c in sheet.header if c and not c.casefold().startswith(OTHER_COLUMNS)]
    if not values:
        raise TadError(
            f"{found.path}: line {sheet.header_line}: no column holds the annotations' text; export it again"
        )
    for number, row in sheet.rows:
        cells = dict(zip(sheet.header, row, strict=True))
        file = next((cells[c] for c in sheet.header if c.casefold() in FILE_COLUMNS and cells[c]), "")
        label = next((cells[c] for c in values if cells[c]), "")
        video = _without_eaf(file or name)
        found.add(video, _time(cells, "begin time"), _time(cells, "end time"), label, f"line {number}")


def _without_header(sheet: Sheet, found: Collector, name: str) -> None:
    """Rows are: tier, participant, begin, begin, end, end, duration, duration, text, and perhaps the file."""
    for number, row in [(sheet.header_line, sheet.header), *sheet.rows]:
        places = [k for k, cell in enumerate(row) if CLOCK.fullmatch(cell)]
        if len(places) < 2:
            raise TadError(f"{found.path}: line {number}: no begin and end as hh:mm:ss.ms; export it with a header")
        last = places[-1] + 2 if len(places) > 2 else places[-1] + 1
        rest = [cell for cell in row[last:] if cell]
        label = rest[0] if rest else ""
        file = next((cell for cell in rest[1:] if cell.lower().endswith(".eaf") or is_video(cell)), "")
        found.add(_without_eaf(file or name), row[places[0]], row[places[1]], label, f"line {number}")


def read_tab(path: Path) -> Table:
    """Read ELAN's tab-delimited export, with or without a header, into a table.

    The video is called like the .eaf file in the column `File Name` or in the comment lines, else like this file.

    Raises:
        TadError: the columns of times or of the text are missing, or a row has no label.
    """
    lines = [(k, line) for k, line in enumerate(lines_of(read_text(path)), 1)]
    comments = [line for _, line in lines if line.lstrip('"').startswith("#")]
    rows = list(_rows(lines))
    if not rows or not is_tab_export(rows[0][1]):
        raise TadError(f"{path}: no columns 'Begin Time' and 'End Time'; export it as tab-delimited text again")
    width = max(len(cells) for _, cells in rows)
    padded = [(number, cells + [""] * (width - len(cells))) for number, cells in rows]
    sheet = Sheet(path, padded[0][1], padded[0][0], "\t", padded[1:])
    found, name = Collector("elan_tab", path), _without_eaf(_media_line(comments))
    header = any(cell.casefold().startswith("begin time") for cell in sheet.header)
    (_with_header if header else _without_header)(sheet, found, name)
    return found.table()


def _rows(lines: list[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    for number, line in lines:
        if line.strip() and not line.lstrip('"').startswith("#"):
            yield number, [tidy(cell) for cell in line.split("\t")]
