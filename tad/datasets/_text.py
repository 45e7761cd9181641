"""Decode annotation files: encodings and Unicode normalisation."""

import codecs
import logging
import re
import unicodedata
from pathlib import Path

from tad.core.errors import TadError
from tad.core.file_kinds import other_kind

log = logging.getLogger(__name__)
LINE_END = re.compile(r"\r\n|\n|\r")

# Longest first, because the byte order mark of UTF-32 starts with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def compose(text: str) -> str:
    """Convert text to Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", text)


def tidy(text: str) -> str:
    """Convert text to Unicode's composed form (NFC) and strip it.

    A word typed on two operating systems is then the same label, id and file name.
    """
    return compose(text).strip()


def lines_of(text: str) -> list[str]:
    """Split a text into its lines, as editors number them.

    `str.splitlines` also splits at separators that stand within labels (U+2028, U+0085, form feeds).
    """
    lines = LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 or UTF-32 if it has the byte order mark of one of them.

    Raises:
        TadError: the file is missing, is a folder, is empty, is compressed, or has an unknown encoding.
    """
    if path.is_dir():
        raise TadError(f"{path}: is a folder; name the annotation file in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TadError(f"{path}: no such file; docs/datasets.md says where each dataset publishes it") from None
    if what := other_kind(data):
        raise TadError(f"{path}: {what}")
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        what = "UTF-8" if encoding == "utf-8" else f"{encoding.upper()}, the encoding of its byte order mark"
        raise TadError(f"{path}: byte {error.start} is not {what}; save the file as UTF-8") from None
    if encoding not in ("utf-8", "utf-8-sig"):
        log.warning("%s: read as %s, as its byte order mark says", path, encoding.upper())
    if not text.strip():
        raise TadError(f"{path}: the file is empty; download or export it again")
    if "\0" in text:
        raise TadError(f"{path}: has NUL characters, so it is not UTF-8 text (UTF-16, perhaps); save the file as UTF-8")
    return text
