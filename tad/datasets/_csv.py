"""Read tables with a header (CSV, spreadsheets) into rows by column name, with line numbers for messages."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tad.core.csv_rows import csv_rows
from tad.core.errors import TadError
from tad.core.limits import LimitError
from tad.core.printable import csv_text
from tad.datasets._spreadsheet import SPREADSHEETS, spreadsheet_rows
from tad.datasets._text import read_text, tidy
from tad.settings.plugins import nearest

Row = tuple[int, dict[str, str]]


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        header: the names of the columns.
        header_line: the line number of the header.
        delimiter: the separator of the values; empty for a spreadsheet.
        rows: line number and cells of each row.
        decomposed: the number of cells that were not in NFC.
    """

    path: Path
    header: list[str]
    header_line: int
    delimiter: str
    rows: list[tuple[int, list[str]]]
    decomposed: int = 0

    def named(self, columns: dict[str, str]) -> Iterator[Row]:
        """Yield line number and cells by our column names, which `columns` maps to the file's names.

        Raises:
            TadError: one of these columns occurs twice.
        """
        lower = [name.casefold() for name in self.header]
        for name in columns.values():
            if (count := lower.count(name.casefold())) > 1:
                raise TadError(f"{self.path}: line {self.header_line}: column '{name}' occurs {count} times; keep one")
        places = {ours: self.header.index(theirs) for ours, theirs in columns.items()}
        for number, cells in self.rows:
            yield number, {ours: cells[place] for ours, place in places.items()}


def read_sheet(path: Path) -> Sheet:
    """Read a table from a text file or a spreadsheet; blank lines are skipped, cells are stripped and converted to NFC.

    The delimiter of a text file is the comma, semicolon or tab, whichever is most frequent in the header, or any
    character that a first line such as `sep=;` names.

    Raises:
        TadError: the file is unreadable, or a line has another number of values than the header.
    """
    if path.suffix.lower() in SPREADSHEETS:
        return _sheet(path, spreadsheet_rows(path), "")
    text = read_text(path)
    first = next(line for line in text.splitlines() if line.strip())
    if first[:4].casefold() == "sep=" and len(first.rstrip()) == 5:  # Excel's statement of the delimiter
        text, delimiter = text.replace(first, "", 1), first[4]
    else:
        delimiter = max(",;\t", key=first.count)
    return _sheet(path, _text_rows(path, text, delimiter), delimiter)


def _text_rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and raw cells of each row of a CSV text."""
    try:
        yield from csv_rows(io.StringIO(text, newline=""), delimiter=delimiter)
    except LimitError as error:
        raise TadError(f"{path}: {error}; export it again") from None


def _sheet(path: Path, raw_rows: Iterable[tuple[int, list[str]]], delimiter: str) -> Sheet:
    header: list[str] = []
    header_line, decomposed, rows = 0, 0, []
    for number, row in raw_rows:
        if "".join(row).isascii():  # most rows; ASCII text has one form
            cells = [csv_text(cell).strip() if cell[:1] == "'" else cell.strip() for cell in row]
        else:
            row = [csv_text(cell) for cell in row]
            cells = [tidy(cell) for cell in row]
            decomposed += sum(cell != raw.strip() for cell, raw in zip(cells, row, strict=True))
        if not any(cells):
            continue
        if not header:
            header, header_line = cells, number
        elif len(cells) != len(header):
            hint = "quote a value that holds the separator, and write decimals with a point"
            raise TadError(f"{path}: line {number}: {len(cells)} values for {len(header)} columns; {hint}")
        else:
            rows.append((number, cells))
    if not header:
        raise TadError(f"{path}: the table is empty; is this the right file and the first sheet?")
    return Sheet(path, header, header_line, delimiter, rows, decomposed)


def rows(path: Path, required: tuple[str, ...]) -> Iterator[Row]:
    """Yield line number and cells by lower-case column name; see `read_sheet`.

    Raises:
        TadError: the header lacks one of the `required` columns, or a line has another number of values.
    """
    sheet = read_sheet(path)
    columns = {name.casefold(): name for name in sheet.header if name}
    for name in required:
        if name not in columns:
            found = nearest(name, [column for column in columns if column not in required])
            where, example = f"{path}: line {sheet.header_line}", ",".join(required)
            raise TadError(f"{where}: no column '{name}' (the first line must be a header such as {example}); {found}")
    yield from sheet.named(columns)
