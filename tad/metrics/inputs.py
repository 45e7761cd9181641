"""Convert ground truth and detections to checked arrays."""

# N rows (instances or detections)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.core.errors import TadError
from tad.metrics.columns import Columns, collect, hint, id_text

Truth = Mapping[str, Sequence[tuple[float, float, str]]]
Detections = Mapping[str, Sequence[Mapping[str, Any]]]
Array = NDArray[np.float64]
MANY = 0.3  # share of reversed segments from which the second number is probably a length


def clean_instances(
    instances: Sequence[tuple[float, float, str]], *, duplicates: str, tolerance: float, shortest: float
) -> tuple[list[tuple[float, float, str]], int, int]:
    """Return the instances of a video that count, in order, and how many are duplicates or too short and do not."""
    instances_kept: list[tuple[float, float, str]] = []
    of_label: dict[str, list[tuple[float, float]]] = {}  # only those of the same label can be duplicates
    copies = short = 0
    for start, end, label in instances:
        if end - start < shortest:
            short += 1
            continue
        same = of_label.setdefault(label, [])
        if duplicates == "drop" and any(abs(start - s) <= tolerance and abs(end - e) <= tolerance for s, e in same):
            copies += 1
        else:
            same.append((start, end))
            instances_kept.append((start, end, label))
    return instances_kept, copies, short


def _check_rows(rows: Array, videos: NDArray[np.int64], ids: Sequence[str], what: str, *, as_given: bool) -> None:
    """Check that rows (start, end, score) are finite and, unless `as_given`, that no segment ends before it starts."""
    bad = ~np.isfinite(rows).all(axis=1)
    if not as_given:
        bad |= rows[:, 0] > rows[:, 1]
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        start, end, score = rows[first]
        infinite = not np.isfinite(rows[bad]).all()
        remedy = "correct the file" if infinite else _remedy(int(bad.sum()), len(rows))
        raise TadError(
            f"{what} of {ids[int(videos[first])]}: segment [{start:g}, {end:g}] with score {score:g}: needs finite "
            f"numbers with start <= end ({int(bad.sum())} such); {remedy}"
        )


def _remedy(count: int, rows: int) -> str:
    """Return the remedy for reversed segments, by how many of the rows they are."""
    if count == rows > 1:
        return "all are reversed, so starts and ends may be swapped; correct the file"
    if count > MANY * rows:
        return "are they [start, length] or [centre, length]? Write [start, end]"
    return "correct the file"


@dataclass(frozen=True)
class Rows:
    """Instances or detections: label id (N,), video index (N,), segment (N, 2), score (N,)."""

    label: NDArray[np.int64]
    video: NDArray[np.int64]
    segments: Array
    scores: Array

    def forward(self) -> "Rows":
        """Return a copy in which the ends of reversed segments are swapped."""
        return replace(self, segments=np.sort(self.segments, axis=1))


def truth_rows(
    truth: Truth, ids: Sequence[str], known: Mapping[str, int], rules: dict[str, Any], *, as_given: bool = False
) -> tuple[Rows, int, int]:
    """Return the instances that count (with score 0), and how many are duplicates or too short and do not."""
    rows, copies, short = [], 0, 0
    for video, video_id in enumerate(ids):
        for *_, label in truth[video_id]:
            if label not in known:
                raise TadError(f"ground truth of {video_id}: unknown label '{label}'; {hint(str(label), list(known))}")
        instances, more_copies, more_short = clean_instances(truth[video_id], **rules)
        copies, short = copies + more_copies, short + more_short
        rows += [(known[label], video, start, end, 0.0) for start, end, label in instances]
    table = np.array(rows, np.float64).reshape(-1, 5)
    numbers = table[:, :2].astype(np.int64)
    _check_rows(table[:, 2:], numbers[:, 1], ids, "ground truth", as_given=as_given)
    return Rows(numbers[:, 0], numbers[:, 1], np.ascontiguousarray(table[:, 2:4]), table[:, 4]), copies, short


def detection_rows(columns: Columns, ids: Sequence[str], names: Sequence[str], *, as_given: bool = False) -> Rows:
    """Return the detections in the videos `ids`; label ids are indices into `names`.

    Raises:
        TadError: an unknown label, a number that is not finite, or an end before its start; the message names the
            video. Or two of `ids` are one.
    """
    row_of: dict[str, int] = {}
    for row, video_id in enumerate(ids):
        if row_of.setdefault(id_text(video_id), row) != row:
            raise TadError(f"ground truth: video {video_id!r:.80} is given twice, in two Unicode forms; merge the two")
    of_video = np.array([row_of.get(id_text(video_id), -1) for video_id in columns.video_ids], np.int64)
    label = columns.relabelled(names, videos=of_video >= 0)
    keep = label >= 0
    chosen: Any = slice(None) if keep.all() else keep
    video = of_video[columns.video[chosen]] if len(columns) else np.zeros(0, np.int64)
    segments, scores = columns.segments[chosen], columns.scores[chosen]
    _check_rows(np.column_stack([segments, scores]), video, ids, "detections", as_given=as_given)
    return Rows(label[chosen].astype(np.int64), video, segments, scores)


def in_videos(detections: Detections | Columns, ids: Sequence[str]) -> tuple[Columns, set[str]]:
    """Return the detections as columns, and the ids of the videos that have an entry, written as in annotations.

    Raises:
        TadError: an invalid entry of one of the videos `ids`.
    """
    if isinstance(detections, Columns):
        return detections, set(map(id_text, detections.video_ids))
    wanted = set(map(id_text, ids))
    own = collect((video_id, detections[video_id]) for video_id in sorted(detections) if id_text(video_id) in wanted)
    return own, set(map(id_text, detections))
