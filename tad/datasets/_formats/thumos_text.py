"""Text files in THUMOS'14's layout: `<Label>_val.txt` and `<Label>_test.txt`, with lines of video, start, end."""

import re
from dataclasses import replace
from pathlib import Path

from tad.annotations.table import SPLITS, Table
from tad.core.errors import TadError
from tad.datasets._formats._collect import Collector
from tad.datasets._parse import SPLIT_NAMES
from tad.datasets._text import lines_of, read_text, tidy

FILE = re.compile(r"(?P<label>.+)_(?P<part>train|training|val|validation|test)\.txt", re.IGNORECASE)


def part_of(path: Path) -> str:
    """Return the split in a file's name (train, val or test); empty for other files."""
    match = FILE.fullmatch(path.name)
    return SPLIT_NAMES[match["part"].casefold()] if match else ""


def is_line(line: str) -> bool:
    """Return whether a line has the form `video start end`."""
    return re.fullmatch(r"\S+\s+[\d.]+\s+[\d.]+", line.strip()) is not None


def read(path: Path) -> Table:
    """Read the file of one class into a table.

    Raises:
        TadError: the file's name holds no class and split, or a line has another form.
    """
    match = FILE.fullmatch(path.name)
    if match is None:
        raise TadError(f"{path}: is not called <Label>_<{'|'.join(SPLITS)}>.txt, as THUMOS'14 calls its files")
    found = Collector("thumos_text", path)
    for number, line in enumerate(lines_of(read_text(path)), 1):
        if not line.strip():
            continue
        cells = [tidy(cell) for cell in line.split()]
        if len(cells) != 3:
            raise TadError(f"{path}: line {number}: {len(cells)} values; a line is: video start end")
        found.add(cells[0], cells[1], cells[2], match["label"], f"{path.name} line {number}")
    table = found.table()
    videos = {video_id: replace(video, split=part_of(path)) for video_id, video in table.videos.items()}
    return replace(table, videos=videos)
