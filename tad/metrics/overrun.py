"""Check detections against the durations of their videos: count those outside, and detect times in another unit."""

# D detections, V videos

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from tad.annotations.checks import TOLERANCE
from tad.annotations.table import Table
from tad.annotations.units import frames_alone
from tad.core.errors import TadError
from tad.metrics.columns import Columns
from tad.metrics.time_units import finding, seen_in

log = logging.getLogger(__name__)


def outside_their_videos(
    columns: Columns, table: Table, videos: Collection[str], *, refused_as: Path | None = None
) -> dict[str, Any]:
    """Count detections in `videos` that begin before 0 or end after their video, by more than `TOLERANCE` seconds.

    The detections are not changed: published files have such detections, and the protocols count them. A warning
    reports how many there are, and what the times look like if they are probably not seconds.

    Args:
        refused_as: the file, if times that are certainly not seconds are to be refused.

    Returns:
        An entry of map.json: `compared` (detections whose video has a known duration), `begin_before`, `end_beyond`,
        `look_like`, the probable unit of the times if they are not seconds (else empty), and `factor`, typically how
        many times larger than seconds they are then (else 1).

    Raises:
        TadError: the times cannot be seconds; the message names the unit and the factor.
    """
    known = {v: d for v in videos if v in table.videos and (d := table.videos[v].duration)}
    duration_V = np.array([known.get(video_id, np.nan) for video_id in columns.video_ids], np.float64)
    duration_D = duration_V[columns.video] if len(columns) else np.zeros(0)
    compared = np.isfinite(duration_D)
    before = compared & (columns.segments[:, 0] < -TOLERANCE)
    beyond = compared & (columns.segments.max(axis=1, initial=-np.inf) > duration_D + TOLERANCE)
    counts = {"compared": int(compared.sum()), "begin_before": int(before.sum()), "end_beyond": int(beyond.sum())}
    found = finding(columns, table, videos, late=counts["end_beyond"] / max(counts["compared"], 1))
    words = f"{found.cause}; the times look like {found.words}, not seconds of the video" if found else ""
    if found and found.certain and refused_as is not None:
        share = f"{counts['end_beyond']} of {counts['compared']} detections end after the end of their video"
        raise TadError(f"{refused_as}: {share + ': ' if counts['end_beyond'] else ''}{words}; convert them")
    if counts["end_beyond"] or counts["begin_before"]:
        row = int(np.flatnonzero(beyond | before)[0])
        video_id, (start, end) = columns.video_ids[columns.video[row]], columns.segments[row]
        alone = frames_alone([seen.span for seen in seen_in(columns, table, videos)[0]])
        log.warning(
            "%d of %d detections end after the end of their video and %d begin before 0 s (first: %s, %g to %g s of "
            "%g s)%s",
            counts["end_beyond"], counts["compared"], counts["begin_before"], video_id, start, end, known[video_id],
            f"; {words}; if they are, convert them" if words else f"; {alone}" if alone else "",
        )  # fmt: skip
    elif words:
        log.warning("%s; if they are, convert them", words)
    return {**counts, "look_like": found.words if found else "", "factor": found.factor if found else 1.0}
