"""Ground truth and detections, whatever they are in → checked rows of numbers."""

# N rows (instances or detections)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.errors import TadError
from tad.metrics.columns import Columns, collect, hint

Truth = Mapping[str, Sequence[tuple[float, float, str]]]
Detections = Mapping[str, Sequence[Mapping[str, Any]]]
Array = NDArray[np.float64]


def clean_instances(
    instances: Sequence[tuple[float, float, str]], *, duplicates: str, tolerance: float, shortest: float
) -> tuple[list[tuple[float, float, str]], int, int]:
    """The instances of a video that count, in order, and how many were duplicates and how many too short."""
    kept: list[tuple[float, float, str]] = []
    copies = short = 0
    for start, end, label in instances:
        if end - start < shortest:
            short += 1
        elif duplicates == "drop" and any(
            name == label and abs(start - s) <= tolerance and abs(end - e) <= tolerance for s, e, name in kept
        ):
            copies += 1
        else:
            kept.append((start, end, label))
    return kept, copies, short


def _check_rows(rows: Array, videos: NDArray[np.int64], ids: Sequence[str], what: str) -> None:
    """Rows (start, end, score) must hold finite numbers, and no segment may end before it starts."""
    bad = ~(np.isfinite(rows).all(axis=1) & (rows[:, 0] <= rows[:, 1]))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        start, end, score = rows[first]
        raise TadError(
            f"{what} of {ids[int(videos[first])]}: segment [{start}, {end}] with score {score}: finite numbers with "
            f"start <= end are needed ({int(bad.sum())} such); correct the file"
        )


@dataclass(frozen=True)
class Rows:
    """Instances or detections: label id (N,), row of the video (N,), segment (N, 2), score (N,)."""

    label: NDArray[np.int64]
    video: NDArray[np.int64]
    segments: Array
    scores: Array


def truth_rows(
    truth: Truth, ids: Sequence[str], known: Mapping[str, int], rules: dict[str, Any]
) -> tuple[Rows, int, int]:
    """The instances that count (score 0), then how many are duplicates and too short."""
    rows, copies, short = [], 0, 0
    for video, video_id in enumerate(ids):
        for *_, label in truth[video_id]:
            if label not in known:
                raise TadError(f"ground truth of {video_id}: unknown label '{label}'; {hint(str(label), list(known))}")
        kept, more_copies, more_short = clean_instances(truth[video_id], **rules)
        copies, short = copies + more_copies, short + more_short
        rows += [(known[label], video, start, end, 0.0) for start, end, label in kept]
    table = np.array(rows, np.float64).reshape(-1, 5)
    numbers = table[:, :2].astype(np.int64)
    _check_rows(table[:, 2:], numbers[:, 1], ids, "ground truth")
    return Rows(numbers[:, 0], numbers[:, 1], np.ascontiguousarray(table[:, 2:4]), table[:, 4]), copies, short


def detection_rows(columns: Columns, ids: Sequence[str], names: Sequence[str]) -> Rows:
    """The detections in the videos `ids`, labels as rows of `names`.

    Raises:
        TadError: an unknown label, a number that is not finite, an end before its start; the video is named.
    """
    row_of = {video_id: row for row, video_id in enumerate(ids)}
    of_video = np.array([row_of.get(video_id, -1) for video_id in columns.video_ids], np.int64)
    label = columns.relabelled(names, videos=of_video >= 0)
    keep = label >= 0
    chosen: Any = slice(None) if keep.all() else keep
    video = of_video[columns.video[chosen]] if len(columns) else np.zeros(0, np.int64)
    segments, scores = columns.segments[chosen], columns.scores[chosen]
    _check_rows(np.column_stack([segments, scores]), video, ids, "detections")
    return Rows(label[chosen].astype(np.int64), video, segments, scores)


def in_videos(detections: Detections | Columns, ids: Sequence[str]) -> tuple[Columns, set[str]]:
    """The detections as columns, and the videos that have an entry.

    Raises:
        TadError: an entry of one of the videos `ids` that is no detection.
    """
    if isinstance(detections, Columns):
        return detections, set(detections.video_ids)
    return collect((video_id, detections[video_id]) for video_id in ids if video_id in detections), set(detections)
