"""Read the rows of CSV text, with a limit for the length of a cell."""

import csv
from collections.abc import Iterable, Iterator

from tad.core.limits import FIELD, LimitError


def csv_rows(lines: Iterable[str], *, delimiter: str = ",", quote: str = '"') -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of each row; rows without cells are yielded too.

    Args:
        lines: an open file or other lines, with newlines as they stand in the file (`newline=""`).
        delimiter: separator of the cells.
        quote: character around cells that hold a delimiter.

    Raises:
        LimitError: a cell is too long, or the text is not CSV; the message begins with the line.
    """
    csv.field_size_limit(FIELD)
    rows = csv.reader(lines, delimiter=delimiter, quotechar=quote)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            problem = f"a cell has more than {FIELD} characters" if "field limit" in str(error) else str(error)
            raise LimitError(f"line {rows.line_num}: not a CSV table ({problem})") from None
        yield rows.line_num, row
