"""VGG Image Annotator 3: projects (.json) and the CSV export of temporal segments."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tad.annotations.table import Table
from tad.core.csv_rows import csv_rows
from tad.core.errors import TadError, cause_of
from tad.core.strict_json import parse_json
from tad.datasets._formats._collect import Collector, expect
from tad.datasets._parse import load_json
from tad.datasets._text import lines_of, read_text

TOOL = "VIA 3"
POINTS, SHAPES = "points in time", "shapes in single frames are ignored"


def is_project(value: Any) -> bool:
    """Return whether a JSON value looks like a project of VIA 3."""
    return isinstance(value, dict) and {"metadata", "attribute", "file"} <= set(value)


def _name(fname: str) -> str:
    return re.split(r"[/\\]", fname)[-1]


def _labels(values: Mapping[str, Any], attributes: Mapping[str, Any]) -> list[str]:
    """Return the values of the first attribute that has any; ids of options become the options' names.

    An attribute with checkboxes may have several, whose ids are separated by commas.
    """
    for key, value in values.items():
        options = (attributes.get(key) or {}).get("options") or {}
        if isinstance(options, dict) and isinstance(value, str):
            parts = value.split(",")
            chosen = [value] if value in options or not all(part in options for part in parts) else parts
            texts = [options.get(part, part) for part in chosen]
        else:
            texts = [value]
        if all(isinstance(text, str) and text.strip() for text in texts):
            return texts
    return [""]


def read_project(path: Path) -> Table:
    """Read a project of VIA 3 into a table; metadata with one time instead of two become points in time.

    Raises:
        TadError: the file is not a project, or a segment has no label.
    """
    project = expect(load_json(path), dict, "the file", path, TOOL)
    files = expect(project.get("file"), dict, "'file'", path, TOOL)
    views = project.get("view") or {}
    attributes = expect(project.get("attribute") or {}, dict, "'attribute'", path, TOOL)
    found = Collector("via", path)
    names = {fid: _name(str(file.get("fname", ""))) for fid, file in files.items() if isinstance(file, dict)}
    for name in names.values():
        found.video(name)
    for key, item in expect(project.get("metadata"), dict, "'metadata'", path, TOOL).items():
        item = expect(item, dict, f"metadata '{key}'", path, TOOL)
        times = expect(item.get("z", []), list, f"'z' of metadata '{key}'", path, TOOL)
        if item.get("xy") or not times:
            found.counted[SHAPES] += 1
            continue
        view = str(item.get("vid", ""))
        fids = [str(fid) for fid in (views.get(view) or {}).get("fid_list", [view])]
        name = next((names[fid] for fid in fids if fid in names), "")
        if not name:
            raise TadError(f"{path}: metadata '{key}': no file belongs to the view '{view}'; save the project again")
        found.counted[POINTS] += len(times) == 1
        for label in _labels(item.get("av") or {}, attributes):
            found.add(name, times[0], times[-1], label, f"metadata '{key}'")
    return found.table()


def is_csv(text: str) -> bool:
    """Return whether a text begins like the CSV export of VIA."""
    return "VGG Image Annotator" in text[:300] or "CSV_HEADER" in text[:300]


def read_csv(path: Path) -> Table:
    """Read the CSV export of VIA 3 into a table.

    Raises:
        TadError: the header comment is missing, or a row has no times or no label.
    """
    lines = lines_of(read_text(path))
    head = next((line for line in lines if line.startswith("#") and "CSV_HEADER" in line), "")
    columns = [column.strip() for column in head.partition("=")[2].split(",")]
    if "metadata" not in columns or "file_list" not in columns:
        raise TadError(f"{path}: no line '# CSV_HEADER = metadata_id,file_list,…'; export the CSV from VIA 3 again")
    found = Collector("via_csv", path)
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        where = found.where(f"line {number}")
        try:
            row = dict(zip(columns, next(cells for _, cells in csv_rows([line])), strict=False))
            names = parse_json(row.get("file_list") or "[]")
            values = parse_json(row.get("metadata") or "{}")
            times = parse_json(row.get("temporal_coordinates") or "[]")
            shape = parse_json(row.get("spatial_coordinates") or "[]")
        except ValueError as error:
            why = f"a cell is not valid JSON ({cause_of(error)})"
            raise TadError(f"{where}: {why}; export the CSV from VIA 3 again") from None
        if "temporal_segment_start" in row:
            times = [row["temporal_segment_start"], row.get("temporal_segment_end", "")]
        if shape or not times:
            found.counted[SHAPES] += 1
            continue
        if not (isinstance(names, list) and names and isinstance(values, dict) and isinstance(times, list)):
            raise TadError(f"{where}: no file, times and attributes; export the CSV from VIA 3 again")
        found.add(_name(str(names[0])), times[0], times[-1], _labels(values, {})[0], f"line {number}")
    return found.table()
