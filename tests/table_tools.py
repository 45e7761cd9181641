"""Rows, files and outcomes for the tests of custom annotation files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.settings import plugins

ROWS = [("a", 1.5, 4.25, "jump", "train"), ("b", 62.0, 70.5, "run", "train"), ("c", 0.0, 9.75, "jump", "test")]


def write(tmp_path: Path, text: str | bytes, name: str = "own.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table_of(
    rows: list[tuple[Any, ...]] = ROWS, *, header: str = "video,start,end,label,split", comma: str = ","
) -> str:
    lines = [header.replace(",", comma), *(comma.join(map(str, row)) for row in rows)]
    return "\n".join(lines) + "\n"


def outcome(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call returns, or the message of its TadError."""
    try:
        return call(), ""
    except TadError as error:
        return None, str(error)


def read_as(name: str, source: Path, **settings: Any) -> Table:
    """Read a file in the format `name`."""
    table: Table = plugins.read_annotations(name, source, settings)
    return table


def segments(table: Table) -> list[tuple[str, float, float, str]]:
    return [(v, i.start, i.end, i.label) for v, video in table.videos.items() for i in video.instances]
