"""Read tables with a header (CSV, spreadsheets) into rows by column name, with line numbers for messages."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tad.core.csv_rows import csv_rows
from tad.core.errors import TadError
from tad.core.limits import LimitError
from tad.core.printable import csv_text, plural
from tad.datasets._csv_text import (
    COMMENTS,
    delimiter_of,
    holds_marks,
    refuse_other_kinds,
    refuse_other_separator,
    unquoted,
    without_comments,
    without_marks,
)
from tad.datasets._spreadsheet import SPREADSHEETS, spreadsheet_rows
from tad.datasets._text import lines_of, read_text, tidy
from tad.settings.plugins import nearest

Row = tuple[int, dict[str, str]]
RULE = re.compile(r"|:?-+:?")  # a cell of the line below the header of a Markdown table


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        header: the names of the columns.
        header_line: the line number of the header.
        delimiter: the separator of the values; empty for a spreadsheet.
        rows: line number and cells of each row.
        decomposed: the number of cells that were not in NFC.
        notes: what was left out or read in spite of an unusual form.
        mixed: by index of a column in which some values are in quotation marks and others are not: line number and
            value of the first.
    """

    path: Path
    header: list[str]
    header_line: int
    delimiter: str
    rows: list[tuple[int, list[str]]]
    decomposed: int = 0
    notes: tuple[str, ...] = ()
    mixed: Mapping[int, tuple[int, str]] = field(default_factory=dict)

    def named(self, columns: dict[str, str]) -> Iterator[Row]:
        """Yield line number and cells by our column names, which `columns` maps to the file's names.

        Raises:
            TadError: one of these columns occurs twice, or some of its values are in quotation marks.
        """
        lower = [name.casefold() for name in self.header]
        for name in columns.values():
            if (count := lower.count(name.casefold())) > 1:
                raise TadError(f"{self.path}: line {self.header_line}: column '{name}' occurs {count} times; keep one")
        places = {ours: self.header.index(theirs) for ours, theirs in columns.items()}
        for ours, place in places.items():
            if place in self.mixed:
                number, value = self.mixed[place]
                raise TadError(
                    f"{self.path}: line {number}: {ours} {value:.40} is in quotation marks, and other values of the"
                    f" column '{self.header[place]}' are not; remove the marks, or put all of them in double quotes"
                )
        for number, cells in self.rows:
            yield number, {ours: cells[place] for ours, place in places.items()}


def read_sheet(path: Path) -> Sheet:
    """Read a table from a text file or a spreadsheet; blank lines are skipped, cells are stripped and converted to NFC.

    The delimiter of a text file is the comma, semicolon, tab or `|`, whichever is most frequent in the header, or any
    character that a first line such as `sep=;` names. Comment lines, repetitions of the header and quotation marks
    around all values of a column are left out; `Sheet.notes` counts them.

    Raises:
        TadError: the file is unreadable, or a line has another number of values than the header.
    """
    if path.suffix.lower() in SPREADSHEETS:
        notes, found = spreadsheet_rows(path)
        sheet = _sheet(path, found, "", Counter())
        return replace(sheet, notes=(*notes, *sheet.notes))
    text, marks = without_marks(read_text(path))
    first = next(line for line in lines_of(text) if line.strip())
    stated = first[4] if first[:4].casefold() == "sep=" and len(first.rstrip()) == 5 else ""  # by Excel
    text, seen = without_comments(text.replace(first, "", 1) if stated else text, str(path))
    seen["byte order marks within the file"] += marks
    number, header = next(((k, line) for k, line in enumerate(lines_of(text), 1) if line.strip()), (1, ""))
    refuse_other_kinds(header, path)
    if not stated:
        refuse_other_separator(header, f"{path}: line {number}")
    delimiter = stated or delimiter_of(header)
    if delimiter == "|":
        seen["header with columns separated by |"] += 1
    cells = [cell.strip() for cell in header.split(delimiter)]
    quote = "'" if len(cells) > 1 and all(len(cell) > 2 and cell[0] == cell[-1] == "'" for cell in cells) else '"'
    if quote == "'":
        seen["header in single quotes"] += 1
    rows_found = _text_rows(path, text, delimiter, quote)
    return _sheet(path, rows_found, delimiter, seen, literal=holds_marks(text))


def _text_rows(path: Path, text: str, delimiter: str, quote: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and raw cells of each row of a CSV text."""
    try:
        yield from csv_rows(io.StringIO(text, newline=""), delimiter=delimiter, quote=quote)
    except LimitError as error:
        raise TadError(f"{path}: {error}; export it again") from None


def _fitted(cells: list[str], header: list[str], where: str) -> list[str]:
    """Return a row with as many cells as the header; only empty cells at its end may be too many or too few.

    Raises:
        TadError: another number of values.
    """
    width = len(header)
    if len(cells) > width and not any(cells[width:]):
        return cells[:width]
    if len(cells) < width and not any(header[len(cells) :]):
        return cells + [""] * (width - len(cells))
    hint = "quote a value that holds the separator with double quotes, and write decimals with a point"
    if any("\n" in cell or "\r" in cell for cell in cells):
        hint = "a value spans several lines; close its double quotes"
    elif width == 1:
        hint = "if the first line is a title or a comment, remove it"
    raise TadError(f"{where}: {plural(len(cells), 'value')} for {plural(width, 'column')}; {hint}")


def _sheet(
    path: Path, raw_rows: Iterable[tuple[int, list[str]]], delimiter: str, seen: Counter[str], *, literal: bool = False
) -> Sheet:
    """Return the table of these rows; if `literal`, quotation marks other than those of CSV are parts of the values."""
    header: list[str] = []
    header_line, decomposed, rows = 0, 0, []
    for number, row in raw_rows:
        if "".join(row).isascii():  # most rows; ASCII text has one form
            cells = [cell.strip() for cell in row]
        else:
            cells = [tidy(cell) for cell in row]
            decomposed += sum(cell != raw.strip() for cell, raw in zip(cells, row, strict=True))
        if not any(cells) or (delimiter == "|" and all(RULE.fullmatch(cell) for cell in cells)):
            continue
        if cells[0][:1] == "#" and len(cells) > 1 and not any(cells[1:]):  # of a spreadsheet
            seen[COMMENTS] += 1
            continue
        if not header:
            header, header_line = [csv_text(cell) for cell in cells], number
            continue
        cells = _fitted(cells, header, f"{path}: line {number}") if len(cells) != len(header) else cells
        if cells == header:
            seen["repetitions of the header"] += 1
        else:
            rows.append((number, cells))
    if not header:
        raise TadError(f"{path}: the table is empty; is this the right file?")
    mixed, columns = ({}, []) if literal else unquoted(header, rows)
    for _, cells in rows:
        cells[:] = [csv_text(cell) if cell[:1] == "'" else cell for cell in cells]
    notes = [f"{count} {what}" for what, count in seen.items() if count]
    notes += [f"quotation marks around all values of column '{name}'" for name in columns]
    return Sheet(path, header, header_line, delimiter, rows, decomposed, tuple(notes), mixed)


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
