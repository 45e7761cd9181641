"""Subtitles, SRT and WebVTT: one file per video, and each cue's text is the label."""

import html
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from tad.annotations.table import Table, Video
from tad.core.errors import TadError
from tad.core.files import publish
from tad.datasets._formats._collect import Collector, milliseconds
from tad.datasets._text import lines_of, read_text

TIME = r"(?:\d+:)?\d{1,2}:\d{2}(?:[.,]\d{1,9})?"
TIMING = re.compile(rf"\s*({TIME})\s*-->\s*({TIME})(?:[ \t].*)?")
# two numbers with an arrow between them, which are meant as the times of a cue
LIKE_TIMING = re.compile(r"\s*-?\d[\d:;.,]*\s*[-=]{1,3}>\s*-?\d[\d:;.,]*(?:[ \t].*)?")
JOINED = "cues without a blank line before them"
EMPTY = "1\n00:00 --> 00:00\n"  # shorter files hold no cue
TAG = re.compile(r"<[^>]*>")


def _is_timing(line: str, where: str) -> bool:
    """Return whether a line has the times of a cue.

    Raises:
        TadError: it has two times, but not in a form that is read.
    """
    if TIMING.fullmatch(line):
        return True
    if LIKE_TIMING.fullmatch(line):
        raise TadError(f"{where}: '{line.strip():.60}' is not of the form 00:00:02,000 --> 00:00:04,000; correct it")
    return False


def _cues(path: Path, seen: Counter[str]) -> Iterator[tuple[int, str, str, str]]:
    """Yield line number, start, end and text of each cue; blocks without a timing line are skipped.

    A timing line within a text begins the next cue, whose number is not a part of the text.
    """
    lines = lines_of(read_text(path))
    timed = [k for k, line in enumerate(lines) if _is_timing(line, f"{path}: line {k + 1}")]
    for first, following in pairwise([*timed, len(lines)]):
        match = TIMING.fullmatch(lines[first])
        assert match is not None
        blank = next((k for k in range(first + 1, following) if not lines[k].strip()), following)
        text = [line.strip() for line in lines[first + 1 : blank]]
        if blank == following < len(lines):
            seen[JOINED] += 1
            text = text[:-1] if len(text) > 1 and text[-1].isdecimal() else text
        yield first + 1, match[1], match[2], " ".join(text)


def _read(path: Path, tool: str, text_of: Callable[[str], str]) -> Table:
    found = Collector(tool, path)
    found.video("")
    if path.stat().st_size < len(EMPTY) and not path.read_bytes().strip():  # a video without instances
        return found.table()
    cues = 0
    for number, start, end, text in _cues(path, found.counted):
        found.add("", start, end, text_of(text), f"line {number}")
        cues += 1
    if not cues and "-->" in read_text(path):
        raise TadError(f"{path}: no line has the form 00:00:02,000 --> 00:00:04,000; export it again")
    return found.table()


def read_srt(path: Path) -> Table:
    """Read a SubRip file into a table; the file's name is the name of the video.

    Raises:
        TadError: a time or a label is invalid; the message names the line.
    """
    return _read(path, "srt", lambda text: text)


def read_vtt(path: Path) -> Table:
    """Read a WebVTT file into a table; the file's name is the name of the video. Tags in the text are ignored.

    Raises:
        TadError: the file does not begin with WEBVTT, or a time or a label is invalid.
    """
    if not read_text(path).lstrip("\ufeff").startswith("WEBVTT"):
        raise TadError(f"{path}: line 1: a WebVTT file begins with WEBVTT; call it .srt if it is SubRip")
    return _read(path, "vtt", lambda text: html.unescape(TAG.sub("", text)))


def _clock(ms: int, point: str) -> str:
    minutes, rest = divmod(ms, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


def _text(video: Video, point: str, escape: Callable[[str], str]) -> str:
    cues = sorted((*milliseconds(instance), instance.label) for instance in video.instances)
    return "\n".join(
        f"{k}\n{_clock(start, point)} --> {_clock(end, point)}\n{escape(' '.join(label.split()))}\n"
        for k, (start, end, label) in enumerate(cues, 1)
    )


def write_srt(table: Table, path: Path, _files: Mapping[str, Path]) -> None:
    """Write the instances of the table's only video as SubRip, in milliseconds."""
    (video,) = table.videos.values()
    with publish(path) as partial:
        partial.write_text(_text(video, ",", str) or "\n", encoding="utf-8", newline="\n")


def write_vtt(table: Table, path: Path, _files: Mapping[str, Path]) -> None:
    """Write the instances of the table's only video as WebVTT, in milliseconds."""
    (video,) = table.videos.values()
    with publish(path) as partial:
        cues = _text(video, ".", lambda label: html.escape(label, quote=False))
        partial.write_text(f"WEBVTT\n\n{cues}", encoding="utf-8", newline="\n")
