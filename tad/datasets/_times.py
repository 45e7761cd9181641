"""Parse times of annotation files as seconds (or frames); unambiguous variants are counted, others are refused."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tad.annotations.checks import FAILED
from tad.core.errors import TadError

UNITS = ("seconds", "milliseconds", "frames", "clock")
NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
PLAIN = re.compile(r"\d+(?:\.\d+)?")  # most numbers of a file, which need no case-insensitive match
COMMA = re.compile(r"[+-]?\d+,(\d+)")
NAMED = re.compile(
    rf"(?P<number>{NUMBER.pattern})\s*(?P<unit>ms|msec|milliseconds?|s|sec|secs|seconds?)", re.IGNORECASE
)
CLOCK = re.compile(r"(?:(?:(?P<days>\d+) days?,? )?(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d{1,2}(?:[.,]\d+)?)")
GROUPED = re.compile(r"[+-]?\d{1,3}(?:[ \u00a0\u202f\u2009'’.,]\d{3})+(?:[.,]\d+)?")  # thousands separators
MOST_RATE = 1e6  # frames per second
DECIMAL_COMMA, CLOCK_TIME, UNIT_NAME = "decimal commas", "clock times (h:mm:ss or mm:ss)", "times with their unit"


def has_decimal_commas(cells: Iterable[str], *, delimiter: str) -> bool:
    """Return whether commas inside the numbers of a table are decimal commas.

    They are if the values are separated by semicolons, as spreadsheets do in countries with a decimal comma, or if a
    comma is not followed by exactly three digits. They are not if other numbers have a decimal point.
    """
    found = list(cells)
    decimals = [len(match[1]) for cell in found if "," in cell and (match := COMMA.fullmatch(cell))]
    if not decimals or any("." in cell and NUMBER.fullmatch(cell) for cell in found):
        return False
    return delimiter == ";" or any(count != 3 for count in decimals)


def clock(text: str) -> float | None:
    """Convert a time h:mm:ss, h:mm:ss.mmm, h:mm:ss,mmm or mm:ss to seconds; None for others, such as h:mm:ss:ff.

    Python and pandas write days before it (`0 days 00:00:01.5`).
    """
    match = CLOCK.fullmatch(text)
    if match is None:
        return None
    hours, minutes, rest = int(match["hours"] or 0), int(match["minutes"]), float(match["seconds"].replace(",", "."))
    if rest >= 60 or (match["hours"] is not None and minutes >= 60):
        return None
    return round(86_400 * int(match["days"] or 0) + 3600 * hours + 60 * minutes + rest, 6)


def rate_of(value: Any, where: str) -> float:
    """Parse a frame rate: a number, also as text or as a fraction (30000/1001).

    Raises:
        TadError: any other value, or a rate that no video has.
    """
    text = str(value).strip().replace(",", ".") if isinstance(value, int | float | str) else ""
    over, _, under = (part.strip() for part in text.partition("/"))
    rate = math.nan
    if NUMBER.fullmatch(over) and not isinstance(value, bool) and (not under or NUMBER.fullmatch(under)):
        rate = float(over) / (float(under or 1) or math.nan)
    if not 0 < rate < MOST_RATE:
        raise TadError(f"{where}: {value!r:.40} frames per second; give the frame rate, such as 25 or 30000/1001")
    return rate


class Times:
    """Parser of the times of one file; `seen` counts times in other notations than plain numbers."""

    def __init__(self, unit: str = "", *, decimal_commas: bool = False) -> None:
        """Create a parser for times in `unit`, one of `UNITS`; empty: seconds.

        Raises:
            TadError: the unit is unknown.
        """
        if unit and unit not in UNITS:
            raise TadError(f"setting unit: '{unit}'; it is one of {', '.join(UNITS)}")
        self.unit = unit or "seconds"
        self.decimal_commas = decimal_commas
        self.seen: Counter[str] = Counter()

    def read(self, value: Any, where: str) -> float:
        """Parse a time in seconds, or in frames if that is the unit of the file.

        NaN is accepted, because the check reports its entry.

        Raises:
            TadError: the value is not a time or is ambiguous; the message says what to write instead.
        """
        if type(value) is str and PLAIN.fullmatch(value):
            return float(value) / 1000 if self.unit == "milliseconds" else float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._scaled(value, where)
        if not isinstance(value, str):
            raise TadError(f"{where}: time {value!r:.40} is not a number; give seconds")
        text = value.strip().replace("\u2212", "-")  # the minus sign of typesetting
        if not text:
            raise TadError(f"{where}: no time; give start and end in seconds")
        if NUMBER.fullmatch(text):
            return self._scaled(float(text), where)
        if self.decimal_commas and COMMA.fullmatch(text):
            self.seen[DECIMAL_COMMA] += 1
            return self._scaled(float(text.replace(",", ".")), where)
        if ":" in text or ";" in text:
            return self._clock(text, where)
        if match := NAMED.fullmatch(text):
            return self._named(float(match["number"]), match["unit"].lower(), text, where)
        if text.casefold() in FAILED:
            raise TadError(
                f"{where}: time {text} stands for a formula without a value; open the table in a spreadsheet program,"
                " correct it and save it again"
            )
        if text.endswith("%"):
            raise TadError(f"{where}: time '{text:.40}' is in per cent; convert it to seconds of the video")
        if GROUPED.fullmatch(text) and not COMMA.fullmatch(text):
            raise TadError(f"{where}: time '{text:.40}' has a thousands separator; write 1234.5, for example")
        if "," in text:
            raise TadError(f"{where}: time '{text:.40}' has a comma; write the decimal with a point")
        raise TadError(f"{where}: time {value!r:.40} is not a number; give seconds")

    def _scaled(self, number: float, where: str) -> float:
        try:
            found = float(number)
        except OverflowError:
            raise TadError(f"{where}: time {number!s:.20}… is too large; give seconds") from None
        return found / 1000 if self.unit == "milliseconds" else found

    def _clock(self, text: str, where: str) -> float:
        if self.unit not in ("seconds", "clock"):
            raise TadError(f"{where}: '{text:.40}' is a clock time, but the times are {self.unit}; set unit: clock")
        found = clock(text)
        if found is None:
            hint = "write hh:mm:ss.mmm, mm:ss or plain seconds (the frames of a time code as a part of a second)"
            raise TadError(f"{where}: '{text:.40}' is not an unambiguous clock time; {hint}")
        self.seen[CLOCK_TIME] += 1
        return found

    def _named(self, number: float, unit: str, text: str, where: str) -> float:
        if self.unit == "frames":
            raise TadError(f"{where}: '{text:.40}' is not a frame number; set unit: seconds")
        self.seen[UNIT_NAME] += 1
        return number / 1000 if unit.startswith("m") else number
