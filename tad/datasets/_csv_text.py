"""Find the table in the text of a CSV file: its separator, comment lines, repeated headers and quoted columns."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tad.core.csv_rows import csv_rows
from tad.core.errors import TadError
from tad.core.limits import LimitError
from tad.core.printable import QUOTATION
from tad.datasets._columns import OURS, PAIRS, USUAL, plain

DELIMITERS = ",;\t|"
NAMES = frozenset(
    {*OURS, *(name for names in USUAL.values() for name in names), *(name for pair in PAIRS for name in pair)}
)
COMMENTS = "comment lines (#)"
BYTE_ORDER_MARK = "\ufeff"
Rows = list[tuple[int, list[str]]]


def delimiter_of(line: str) -> str:
    """Return the separator of a header: comma, semicolon, tab or `|`, whichever is most frequent."""
    return max(DELIMITERS, key=line.count)


def known_names(cells: Sequence[str]) -> int:
    """Count the cells that are names of our columns, or usual names of them."""
    return sum(plain(cell) in NAMES for cell in cells)


def refuse_other_separator(header: str, where: str) -> None:
    """Refuse a header whose names are separated by blanks or colons.

    Raises:
        TadError: the message names the separator.
    """
    for words, name in ((header.split(), "spaces"), (header.split(":"), "colons")):
        if not any(mark in header for mark in DELIMITERS) and known_names(words) >= 3:
            raise TadError(f"{where}: the columns are separated by {name}; separate them by commas, semicolons or tabs")


def refuse_other_kinds(line: str, path: Path) -> None:
    """Refuse a file whose first line is that of JSON, XML or a web page.

    Raises:
        TadError: the message names the kind of file.
    """
    start = line.strip()
    if start.startswith(("{", "[{")) or start == "[":
        raise TadError(f"{path}: is JSON, not a CSV table; rename it to .json, or export it as CSV")
    if start.startswith(("<!", "<?", "<html")):
        raise TadError(f"{path}: is a web page or XML, not a CSV table; download or export it again")


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next((cells for _, cells in csv_rows([line], delimiter=delimiter)), [])
    except LimitError:  # reported, with its line, by the reader of all rows
        return []


def _outside_quotes(lines: Sequence[str]) -> list[bool]:
    """Return for each line whether it begins outside a quoted value."""
    outside, quotes = [], 0
    for line in lines:
        outside.append(quotes % 2 == 0)
        quotes += line.count('"')
    return outside


def without_comments(text: str, where: str) -> tuple[str, Counter[str]]:
    """Blank the lines that begin with `#` and are comments, so that line numbers stay; count them.

    A line is a comment if it stands before the header, or has another number of values than the header, or a single
    one. The line `# video,start,end,label` above the first row is the header. If all rows begin with `#`, it is part of
    the names.

    Args:
        text: the content of the file.
        where: the file, for messages.

    Raises:
        TadError: a line could be a comment or a row; the message names it.
    """
    lines = list(io.StringIO(text, newline=""))
    marked = [
        begins and line.lstrip().startswith("#") for line, begins in zip(lines, _outside_quotes(lines), strict=True)
    ]
    rows = [k for k, line in enumerate(lines) if line.strip() and not marked[k]]
    if not any(marked) or not rows:
        return text, Counter()
    first, seen = rows[0], Counter[str]()
    delimiter = delimiter_of(lines[first])
    above = [k for k in range(first) if marked[k]]
    if above and known_names(_cells(lines[first], delimiter)) < 2:
        names = lines[above[-1]].lstrip().lstrip("#").lstrip(" ")
        cells = _cells(names, delimiter)
        if known_names(cells) >= 2 and len(cells) == len(_cells(lines[first], delimiter)):
            lines[above[-1]], marked[above[-1]], first = names, False, above[-1]
            seen["header that begins with #"] += 1
    width = len(_cells(lines[first], delimiter))
    below = [k for k in range(first + 1, len(lines)) if marked[k]]
    if all(row == first for row in rows):
        below = []
    for k in [k for k in range(first) if marked[k]] + below:
        cells = _cells(lines[k], delimiter)
        if k > first and len(cells) == width and any(cell.strip() for cell in cells[1:]):
            raise TadError(
                f"{where}: line {k + 1}: begins with '#' as comments do, and has the {width} values of a row; remove"
                " the line, or write the name in double quotes if it begins with '#'"
            )
        seen[COMMENTS] += 1
        lines[k] = "\n"
    return "".join(lines), seen


def without_marks(text: str) -> tuple[str, int]:
    """Remove byte order marks at the beginnings of lines, which concatenated files have; return their number."""
    count = text.count("\n" + BYTE_ORDER_MARK) + text.startswith(BYTE_ORDER_MARK)
    return (text.removeprefix(BYTE_ORDER_MARK).replace("\n" + BYTE_ORDER_MARK, "\n"), count) if count else (text, 0)


def holds_marks(text: str) -> bool:
    """Return whether a value in the double quotes of CSV begins with another mark, which is then a part of it."""
    return any(f'"{mark}' in text for mark in QUOTATION)


def unquoted(header: list[str], rows: Rows) -> tuple[dict[int, tuple[int, str]], list[str]]:
    """Remove quotation marks (`QUOTATION`) around every value of a column, in place.

    A single value in marks may be a name that has them: nothing is removed where a column has no two different values.

    Returns:
        Line and value of the first quoted value of each column in which others are not quoted, by its index; and the
        names of the columns whose marks were removed.
    """
    mixed: dict[int, tuple[int, str]] = {}
    done = []
    for k, name in enumerate(header):
        quoted = [(number, cells[k]) for number, cells in rows if cells[k][:1] in QUOTATION and _is_quoted(cells[k])]
        filled = {cells[k] for _, cells in rows if cells[k]}
        if not quoted or len(filled) == 1:
            continue
        if len({value[0] for _, value in quoted}) > 1 or len(quoted) < sum(bool(cells[k]) for _, cells in rows):
            mixed[k] = quoted[0]
            continue
        done.append(name)
        mark = QUOTATION[quoted[0][1][0]]
        for _, cells in rows:
            cells[k] = cells[k][1:-1].replace(2 * mark, mark).strip()
    return mixed, done


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[-1] == QUOTATION[value[0]]
