"""Read a sheet of a spreadsheet (Excel, OpenDocument) into rows of text: the first visible one that is not empty."""

import datetime
import json
import os
import resource
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tad.core.bundle import python_module
from tad.core.errors import TadError
from tad.core.printable import plural

SPREADSHEETS = frozenset({".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"})
MEMORY = 900 << 20  # bytes for the parser; a spreadsheet is a ZIP archive, and a small one may unpack to any size
EPOCH = datetime.datetime(1899, 12, 31)  # day 0 of Excel's dates
SOON = datetime.datetime(1900, 3, 1)  # an earlier time is a clock time of more than 24 hours
SHOWN = 3  # names of sheets in a message
UNCOMPUTED = "#FORMULA!"  # stands for the value of a formula that no program has computed
Cells = list[list[Any]]
Row = tuple[int, list[str]]


class _Refused(Exception):
    """A spreadsheet that could be read, but not with certainty."""


def _cell(value: Any) -> str:
    """Return a cell as text: durations and times of day as h:mm:ss.ffffff, whole numbers without a decimal point."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime.datetime):
        if not EPOCH <= value < SOON:
            return value.isoformat(sep=" ")
        value -= EPOCH
    if isinstance(value, datetime.timedelta):
        microseconds = round(value / datetime.timedelta(microseconds=1))
        return _clock(microseconds)
    if isinstance(value, datetime.time):
        seconds = 3600 * value.hour + 60 * value.minute + value.second
        return _clock(1_000_000 * seconds + value.microsecond)
    return str(value)


def _clock(microseconds: int) -> str:
    seconds, rest = divmod(microseconds, 1_000_000)
    text = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}.{rest:06d}" if rest else text


def _header(rows: Cells) -> list[str]:
    return next(([_cell(v).strip() for v in row] for row in rows if any(v not in ("", None) for v in row)), [])


def _choose(path: Path) -> tuple[str, Cells, list[tuple[int, int, int]], list[str]]:
    """Return name, cells, merged columns (first row, last row, column) of the sheet that is read, and notes.

    Raises:
        _Refused: another visible sheet has the same columns, so that its rows would be lost.
    """
    from python_calamine import CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

    book, notes = CalamineWorkbook.from_path(str(path)), []
    kinds = {entry.name: entry for entry in book.sheets_metadata if entry.typ == SheetTypeEnum.WorkSheet}
    visible = [name for name, entry in kinds.items() if entry.visible == SheetVisibleEnum.Visible]
    sheets = {name: book.get_sheet_by_name(name) for name in visible or kinds}
    filled = {name: rows for name, sheet in sheets.items() if _header(rows := sheet.to_python(skip_empty_area=False))}
    if not filled:
        return "", [], [], []
    name, *others = filled
    names = {cell.casefold() for cell in _header(filled[name])} - {""}
    alike = [other for other in others if names == {cell.casefold() for cell in _header(filled[other])} - {""}]
    if alike:
        shown = ", ".join(f"'{sheet}'" for sheet in [name, *alike][:SHOWN])
        raise _Refused(
            f"the sheets {shown} have the same columns, and one sheet is read; put all rows into one, or save each as"
            " CSV"
        )
    if len(kinds) > 1:
        unread = ", ".join(f"'{sheet}'" for sheet in [sheet for sheet in kinds if sheet != name][:SHOWN])
        notes.append(f"sheet '{name}' is read, and not {unread}")
    ranges = [(first, last, left) for (first, left), (last, right) in sheets[name].merged_cell_ranges or []
              if left == right]  # fmt: skip
    return name, filled[name], ranges, notes


def _part(archive: zipfile.ZipFile, sheet: str) -> bytes:
    """Return the XML of a sheet of an Excel file."""
    book = ElementTree.fromstring(archive.read("xl/workbook.xml"))
    (entry,) = [item for item in book.iter() if item.tag.endswith("}sheet") and item.get("name") == sheet]
    (key,) = [value for name, value in entry.items() if name.endswith("}id")]
    links = ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
    target = next(link.get("Target", "") for link in links if link.get("Id") == key)
    return archive.read(target.lstrip("/") if target.startswith("/") else f"xl/{target}")


def _without_value(path: Path, sheet: str) -> dict[tuple[int, int], str]:
    """Return row and column (from 0) of the cells of an Excel file whose formula failed or was not computed → text.

    The parser returns empty cells for them, as it does for cells in which nothing was ever written.
    """
    if path.suffix.lower() not in (".xlsx", ".xlsm"):
        return {}
    with zipfile.ZipFile(path) as archive:
        data, waiting = _part(archive, sheet), b'fullCalcOnLoad="1"' in archive.read("xl/workbook.xml")
    found: dict[tuple[int, int], str] = {}
    if b"<f" not in data and b't="e"' not in data:
        return found
    at, rows = (0, -1), count()
    for event, item in ElementTree.iterparse(BytesIO(data), events=("start", "end")):
        kind = item.tag.rpartition("}")[2]
        if event == "start" and kind == "row":
            at = (int(item.get("r", next(rows) + 1)) - 1, -1)
        elif event == "end" and kind == "c":
            letters = item.get("r", "").rstrip("0123456789")
            at = (at[0], _column(letters) if letters else at[1] + 1)
            children = {child.tag.rpartition("}")[2]: child.text or "" for child in item}
            if item.get("t") == "e":
                found[at] = children.get("v") or UNCOMPUTED
            elif "f" in children and (waiting or (item.get("t") != "str" and not children.get("v", "").strip())):
                found[at] = UNCOMPUTED
            item.clear()
    return found


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - 64
    return number - 1


def _rows(path: Path) -> Iterator[Row | list[str]]:
    """Yield the notes about the file, then its rows."""
    sheet, rows, merged, notes = _choose(path)
    missing = _without_value(path, sheet) if sheet else {}
    header = _header(rows)
    width = max((k + 1 for k, cell in enumerate(header) if cell), default=0)
    copied = 0
    for first, last, column in merged:
        for row in range(first + 1, min(last + 1, len(rows))):
            if column < width and rows[first][column] not in ("", None):
                rows[row][column] = rows[first][column]
                copied += 1
    if copied:
        notes.append(plural(copied, "cell merged with the one above it", "cells merged with the one above them"))
    yield notes
    for number, cells in enumerate(rows):
        yield number + 1, [missing.get((number, k)) or _cell(value) for k, value in enumerate(cells[:width])]


def _print_rows(path: Path) -> int:
    """Print the rows as JSON within a limit of memory, as the process of its own that `spreadsheet_rows` starts."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        for row in _rows(path):
            print(json.dumps(row))
    except _Refused as error:
        print(error, file=sys.stderr)
        return 2
    except (MemoryError, Exception) as error:  # of the parser: none of its own types is exported for all cases
        print(f"{error}".partition("\n")[0] or type(error).__name__, file=sys.stderr)
        return 1
    return 0


def spreadsheet_rows(path: Path) -> tuple[list[str], list[Row]]:
    """Return notes, and row number (from 1) and cells of a sheet, all rows with as many cells as the widest.

    The sheet is the first one that is visible and not empty; a second one with the same columns is refused. Columns
    without a header are left out. Of cells that are merged with cells below, all have the value. The file is parsed in
    a process of its own with little memory: one cell in the last column of the last row would otherwise make the parser
    allocate 17 billion cells, and abort.

    Raises:
        TadError: the file is missing, is not a spreadsheet, has no sheet or two tables, or is too large.
    """
    if not path.is_file():
        raise TadError(f"{path}: no such file; check the path")
    command = [*python_module("tad.datasets._spreadsheet"), str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == 2 and said:
        raise TadError(f"{path}: {said[-1]}")
    if done.returncode:
        cause = said[-1] if done.returncode == 1 and said else "it needs too much memory, or its parser failed"
        raise TadError(f"{path}: not a readable spreadsheet ({cause:.160}); save it again, or as CSV")
    notes, *rows = [json.loads(line) for line in done.stdout.splitlines()]
    return notes, [(number, cells) for number, cells in rows]


if __name__ == "__main__":
    sys.exit(_print_rows(Path(sys.argv[1])))
