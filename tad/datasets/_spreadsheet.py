"""Read the first sheet of a spreadsheet (Excel, OpenDocument) into rows of text."""

import datetime
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tad.core.errors import TadError

SPREADSHEETS = frozenset({".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"})
MEMORY = 900 << 20  # bytes for the parser; a spreadsheet is a ZIP archive, and a small one may unpack to any size


def _cell(value: Any) -> str:
    """Return a cell as text: durations and times of day as h:mm:ss.ffffff, whole numbers without a decimal point."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime.timedelta):
        microseconds = round(value / datetime.timedelta(microseconds=1))
        return _clock(microseconds)
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, datetime.time):
        seconds = 3600 * value.hour + 60 * value.minute + value.second
        return _clock(1_000_000 * seconds + value.microsecond)
    return str(value)


def _clock(microseconds: int) -> str:
    seconds, rest = divmod(microseconds, 1_000_000)
    text = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}.{rest:06d}" if rest else text


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    from python_calamine import CalamineWorkbook

    rows = CalamineWorkbook.from_path(str(path)).get_sheet_by_index(0).to_python(skip_empty_area=False)
    header: list[str] = next(([_cell(v) for v in row] for row in rows if any(v not in ("", None) for v in row)), [])
    width = max((k + 1 for k, cell in enumerate(header) if cell.strip()), default=0)
    for number, row in enumerate(rows, 1):
        yield number, [_cell(value) for value in row[:width]]


def _print_rows(path: Path) -> int:
    """Print the rows as JSON within a limit of memory, as the process of its own that `spreadsheet_rows` starts."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        for row in _rows(path):
            print(json.dumps(row))
    except (MemoryError, Exception) as error:  # of the parser: none of its own types is exported for all cases
        print(f"{error}".partition("\n")[0] or type(error).__name__, file=sys.stderr)
        return 1
    return 0


def spreadsheet_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield row number (from 1) and cells of the first sheet, all rows with as many cells as the widest.

    Trailing columns without a header are left out. The file is parsed in a process of its own with little memory: one
    cell in the last column of the last row would otherwise make the parser allocate 17 billion cells, and abort.

    Raises:
        TadError: the file is missing, is not a spreadsheet, has no sheet, or is too large.
    """
    if not path.is_file():
        raise TadError(f"{path}: no such file")
    command = [sys.executable, "-m", "tad.datasets._spreadsheet", str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        cause = said[-1] if done.returncode == 1 and said else "it needs too much memory, or its parser failed"
        raise TadError(f"{path}: not a readable spreadsheet ({cause:.160}); save it again, or as CSV")
    for line in done.stdout.splitlines():
        number, cells = json.loads(line)
        yield number, cells


if __name__ == "__main__":
    sys.exit(_print_rows(Path(sys.argv[1])))
