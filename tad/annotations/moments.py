"""Moments: annotations with one time each, as instances that start and end at that time."""

from dataclasses import replace
from typing import Literal

from tad.annotations.table import Instance, Table

Kind = Literal["segments", "moments"]
At = Literal["", "start", "middle", "end"]


def moment_of(start: float, end: float, at: At) -> float:
    """Return the time of a segment that stands for it; with `at` empty, its start."""
    return {"": start, "start": start, "middle": (start + end) / 2, "end": end}[at]


def as_moments(table: Table, at: At = "") -> Table:
    """Return the table with `kind` moments.

    Args:
        table: a table that may have segments.
        at: the time of a segment that becomes its moment; empty: segments stay, and the check refuses them.
    """

    def point(instance: Instance) -> Instance:
        time = moment_of(instance.start, instance.end, at)
        return replace(instance, start=time, end=time)

    videos = table.videos
    if at:
        videos = {v: replace(x, instances=tuple(map(point, x.instances)), ambiguous=()) for v, x in videos.items()}
    return replace(table, videos=videos, kind="moments")
