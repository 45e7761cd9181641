"""Check detections against the durations of their videos: count those outside, and detect times in another unit."""

# D detections, V videos

import logging
from collections.abc import Collection
from typing import Any

import numpy as np

from tad.annotations.checks import TOLERANCE
from tad.annotations.table import Table
from tad.annotations.units import Span, likely_unit
from tad.metrics.columns import Columns

log = logging.getLogger(__name__)

LEAST_FRACTIONS, SHORTEST = 2, 5.0  # detections, and seconds of the shortest video, from which fractions are suspected
MOST = 0.5  # another unit is considered if a larger share of the detections ends too late


def outside_their_videos(columns: Columns, table: Table, videos: Collection[str]) -> dict[str, Any]:
    """Count detections in `videos` that begin before 0 or end after their video, by more than `TOLERANCE` seconds.

    The detections are not changed: published files have such detections, and the protocols count them. A warning
    reports how many there are.

    Returns:
        An entry of map.json: `compared` (detections whose video has a known duration), `begin_before`, `end_beyond`,
        and `look_like`, the probable unit of the times if they cannot be seconds.
    """
    known = {v: d for v in videos if v in table.videos and (d := table.videos[v].duration)}
    duration_V = np.array([known.get(video_id, np.nan) for video_id in columns.video_ids], np.float64)
    duration_D = duration_V[columns.video] if len(columns) else np.zeros(0)
    compared = np.isfinite(duration_D)
    before = compared & (columns.segments[:, 0] < -TOLERANCE)
    beyond = compared & (columns.segments.max(axis=1, initial=-np.inf) > duration_D + TOLERANCE)
    counts = {"compared": int(compared.sum()), "begin_before": int(before.sum()), "end_beyond": int(beyond.sum())}
    words = ""
    if counts["end_beyond"] > MOST * counts["compared"]:
        last_V = np.full(len(columns.video_ids), -np.inf)
        np.maximum.at(last_V, columns.video, columns.segments[:, 1])
        spans = [
            Span(video_id, float(last), known[video_id], table.videos[video_id].rate)
            for video_id, last in zip(columns.video_ids, last_V, strict=True)
            if video_id in known and np.isfinite(last)
        ]
        unit = likely_unit(spans)
        words = unit.words if unit else ""
    if counts["end_beyond"] or counts["begin_before"]:
        row = int(np.flatnonzero(beyond | before)[0])
        video_id, (start, end) = columns.video_ids[columns.video[row]], columns.segments[row]
        log.warning(
            "%d of %d detections end after the end of their video and %d begin before 0 s (first: %s, %g to %g s of "
            "%g s)%s",
            counts["end_beyond"], counts["compared"], counts["begin_before"], video_id, start, end, known[video_id],
            f"; the times look like {words}, not seconds; convert them" if words else "",
        )  # fmt: skip
    elif counts["compared"] >= LEAST_FRACTIONS and columns.segments[compared].max() <= 1:
        shortest = float(duration_D[compared].min())
        if shortest >= SHORTEST:
            words = "fractions of the duration"
            log.warning(
                "all %d detections end within the first second, and the shortest video lasts %g s; the times look like "
                "%s, not seconds; convert them", counts["compared"], shortest, words,
            )  # fmt: skip
    return {**counts, "look_like": words}
