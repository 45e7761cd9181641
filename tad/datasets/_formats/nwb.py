"""NWB: bouts of behaviour in the extension ndx-ethogram (`EthogramBouts`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from tad.annotations.table import Table
from tad.core.errors import TadError
from tad.core.h5 import open_h5, read_texts, reading, refuse_odd_dataset
from tad.datasets._formats._collect import Collector

KIND = "EthogramBouts"
COLUMNS = ("start_time", "stop_time", "label")
MOST = 10_000_000  # bouts in one table


def _bouts(file: h5py.File) -> Iterator[tuple[str, h5py.Group]]:
    found: list[tuple[str, h5py.Group]] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Group) and _text(item.attrs.get("neurodata_type", "")) == KIND:
            found.append((name, item))

    file.visititems(visit)
    yield from found


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _column(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """Return a column, whose declared size is credible; None where there is none."""
    column = group.get(name)
    if isinstance(column, h5py.Dataset):
        refuse_odd_dataset(column)
    return column


def _video(group: h5py.Group) -> str:
    """Return the file name of the linked video; empty without one."""
    series = group.get("source_video")
    files = series.get("external_file") if isinstance(series, h5py.Group) else None
    if isinstance(files, h5py.Dataset) and files.size:
        return _text(files[0] if files.ndim else files[()]).replace("\\", "/").rpartition("/")[2]
    return ""


def read(path: Path) -> Table:
    """Read all `EthogramBouts` of a file into a table, in seconds.

    The video is the one that the bouts link as `source_video`, else it is called like the file.

    Raises:
        TadError: the file has no bouts, or their columns have different lengths.
    """
    found = Collector("nwb", path)
    with open_h5(path) as file, reading(path, "write it with ndx-ethogram again"):
        groups = list(_bouts(file))
        if not groups:
            raise TadError(f"{path}: no {KIND}; write the bouts with the extension ndx-ethogram")
        for name, group in groups:
            columns: list[Any] = [_column(group, column) for column in COLUMNS]
            if not all(isinstance(column, h5py.Dataset) and column.ndim == 1 for column in columns):
                raise TadError(f"{path}: {name}: no columns {', '.join(COLUMNS)}; write it with ndx-ethogram again")
            sizes = {len(column) for column in columns}
            if len(sizes) > 1 or max(sizes) > MOST:
                raise TadError(f"{path}: {name}: columns of {sorted(sizes)} rows; they must be of equal length")
            video = _video(group)
            found.video(video)
            starts, ends = (column[:] for column in columns[:2])
            labels = read_texts(group, COLUMNS[2])
            for k, (start, end, label) in enumerate(zip(starts, ends, labels, strict=True)):
                found.add(video, float(start), float(end), _text(label), f"{name}[{k}]")
    return found.table()
