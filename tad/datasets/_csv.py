"""CSV tables with a header → rows by column name, with line numbers for messages."""

import csv
from collections.abc import Iterator
from pathlib import Path

from tad.datasets._parse import read_text
from tad.errors import TadError
from tad.plugins import nearest


def rows(path: Path, required: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column name (lower case, stripped); blank lines are skipped.

    Values are separated by commas, semicolons or tabs, whichever the header has most of.

    Raises:
        TadError: a header without the `required` columns, or a line with another number of values.
    """
    lines = read_text(path).splitlines()
    header = next(line for line in lines if line.strip())
    delimiter = max(",;\t", key=header.count)
    table = csv.reader(lines, delimiter=delimiter)
    columns: list[str] = []
    for row in table:
        cells = [cell.strip() for cell in row]
        where = f"{path}: line {table.line_num}"
        if not any(cells):
            continue
        if not columns:
            columns = [cell.lower() for cell in cells]
            _check_header(columns, required, where)
        elif len(cells) != len(columns):
            hint = "quote a value that holds the separator, and write decimals with a point"
            raise TadError(f"{where}: {len(cells)} values for {len(columns)} columns; {hint}")
        else:
            yield table.line_num, dict(zip(columns, cells, strict=True))


def _check_header(columns: list[str], required: tuple[str, ...], where: str) -> None:
    for name in required:
        if name not in columns:
            found = nearest(name, [column for column in columns if column not in required])
            example = ",".join(required)
            raise TadError(f"{where}: no column '{name}' (the first line must be a header such as {example}); {found}")
        if columns.count(name) > 1:
            raise TadError(f"{where}: column '{name}' stands {columns.count(name)} times; keep one")
