"""Escape text from files for terminals, logs, Markdown and CSV, where parts of it could act as commands."""

import csv
import re
from collections.abc import Iterable
from typing import Literal

from tad.core.limits import MESSAGE

# Control characters (C0 without tab and newline, DEL, C1), lone surrogates, line separators, and the characters that
# reorder or hide text: bidirectional controls, zero-width characters, byte order marks and tags.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]"
)
GAP = " … "
TAIL = 160  # characters kept from the end of a long message: it ends with the remedy
FORMULA = ("=", "+", "-", "@")  # how a spreadsheet recognises a formula
ESCAPED_FORMULA = re.compile(r"'+[=+\-@]")
# Quotation marks that CSV does not have, which scripts, SQL exports and word processors write, and their ends.
QUOTATION = {"'": "'", "`": "`", "“": "”", "‘": "’", "„": "“", "«": "»"}
MARKDOWN = re.compile(r"([\\`*\[\]|~$])")  # an underscore inside a word is an underscore


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable(text: str) -> str:
    """Escape control and invisible characters (as \\x1b), so that a terminal shows them and does not act on them.

    Tabs and newlines stay. Joiners inside words and emoji are escaped too, because two texts must not look alike.
    """
    return text if text.isascii() and text.isprintable() else HIDDEN.sub(_escape, text)


def one_line(text: str, most: int = MESSAGE) -> str:
    """Return text as one printable line of at most `most` characters; the middle of a longer one is cut out."""
    line = " ".join(printable(text).split()) if "\n" in text or "\t" in text else printable(text)
    if len(line) <= most:
        return line
    return line[: most - TAIL - len(GAP)] + GAP + line[-TAIL:]


def plural(count: int, one: str, many: str = "") -> str:
    """Return a number with its words: `1 video`, `2 videos`, `3 classes`, `0 queries`.

    Args:
        one: the words for one, whose last is made plural: a noun in English that is regular.
        many: the words for other numbers, where they differ in more: `plural(n, "video is", "videos are")`.
    """
    if count == 1:
        return f"1 {one}"
    if many:
        return f"{count} {many}"
    if one.endswith(("s", "x", "ch", "sh")):
        return f"{count} {one}es"
    return f"{count} {one[:-1]}ies" if re.search("[^aeiou]y$", one) else f"{count} {one}s"


def markdown_cell(text: str) -> str:
    """Return text as the content of a cell of a Markdown table: shown as it is, no HTML, links or further cells."""
    line = " ".join(printable(text).split())
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        line = line.replace(character, entity)
    line = MARKDOWN.sub(r"\\\1", line)
    return re.sub(r"(?i)\b(https?|ftp|mailto|www)(?=[:.])", r"\1<!-- -->", line)


def figure_text(text: str) -> str:
    """Return text for a figure, where a pair of dollar signs would begin a formula, and some formulas are errors."""
    return printable(text).replace("$", r"\$")


def csv_cell(text: str) -> str:
    """Return text as a cell that no spreadsheet computes: one line, with an apostrophe before =, +, - and @.

    Only for text: a negative number would become text, so numbers must not pass through here. `csv_text` undoes the
    apostrophe, which spreadsheets do not show.
    """
    line = " ".join(printable(text).split())
    return f"'{line}" if line.startswith(FORMULA) or ESCAPED_FORMULA.match(line) else line


def csv_quoting(texts: Iterable[str]) -> Literal[0, 2]:
    """Return the quoting of a CSV file with these texts, for `csv.writer`.

    It is minimal, but all texts are in double quotes if one begins with another quotation mark: a reader takes such
    marks for those of the file (`tad.datasets._csv_text`), unless they stand within double quotes.
    """
    return csv.QUOTE_NONNUMERIC if any(text[:1] in QUOTATION for text in texts if text) else csv.QUOTE_MINIMAL


def csv_text(cell: str) -> str:
    """Return the text of a cell that `csv_cell` may have written."""
    return cell[1:] if ESCAPED_FORMULA.match(cell) else cell
