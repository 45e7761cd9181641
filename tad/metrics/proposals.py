"""Proposals, whatever their labels: average recall at an average number of them (AR@AN), and the area under that curve.

ActivityNet's proposal task. The n-th point of the curve does not take n proposals of every video: each video gives the
same share of its own, so that n is reached on average over the videos that have instances.
"""

# G instances, H tIoU thresholds, N average numbers of proposals, P proposals, V videos

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.compiled import compiled
from tad.errors import TadError
from tad.metrics.columns import Columns
from tad.metrics.inputs import Detections, Truth, detection_rows, in_videos
from tad.metrics.kernels import tiou_of

Array = NDArray[np.float64]
TIOU = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
MOST = 100


@dataclass(frozen=True)
class Proposals:
    """The curve.

    Attributes:
        tiou: (H,). number: (N,) average proposals per video. recall: (H, N) fractions.
        videos: with instances; the others do not count. instances: all of them, duplicates included.
    """

    tiou: tuple[float, ...]
    number: Array
    recall: Array
    videos: int
    instances: int

    def average_recall(self, number: int) -> float:
        """AR@`number`, a fraction: the recall, averaged over the thresholds, at the `number`-th point (from 1)."""
        return float(self.recall[:, number - 1].mean())

    @property
    def auc(self) -> float:
        """Area under the averaged recall over `number`, divided by the last number: a fraction; 0 without proposals."""
        return float(np.trapezoid(self.recall.mean(axis=0), self.number) / (self.number[-1] or 1.0))


@compiled
def _first_hits(proposals: Any, ends: Any, instances: Any, first: Any, tious: Any) -> Any:
    """(H, G) the rank (from 0) of the first proposal of its video that reaches each threshold; -1 for none."""
    hits = np.full((len(tious), len(instances)), -1, np.int64)
    for v in range(len(ends) - 1):
        for g in range(first[v], first[v + 1]):
            reached = 0
            for p in range(ends[v], ends[v + 1]):
                share = tiou_of(proposals[p], instances[g])
                while reached < len(tious) and share >= tious[reached]:
                    hits[reached, g] = p - ends[v]
                    reached += 1
                if reached == len(tious):
                    break
    return hits


def average_recall(
    truth: Truth, detections: Detections | Columns, *, tiou: Sequence[float] = TIOU, most: int = MOST
) -> Proposals:
    """AR@AN for AN = 1 … `most`, as the ActivityNet challenge's script computes it.

    Args:
        truth: video id → (start, end, label) in seconds. detections: as in `evaluate`; labels do not matter.
        tiou: thresholds, rising.

    Raises:
        TadError: thresholds that do not rise, no instance, no video in common, no finite numbers.
    """
    if not len(tiou) or list(tiou) != sorted(tiou):
        raise TadError(f"tiou: {list(tiou)}: rising thresholds are needed")
    ids = sorted(video_id for video_id, rows in truth.items() if rows)
    if not ids:
        raise TadError("ground truth: no video has an instance, so there is no recall; is this the right split?")
    columns, given = in_videos(detections, ids)
    if given.isdisjoint(ids):
        raise TadError(f"detections: none in the {len(ids)} videos with instances; are split and video ids right?")
    rows = detection_rows(columns, ids, columns.labels)
    order = np.lexsort((rows.segments[:, 1], rows.segments[:, 0], -rows.scores, rows.video))
    held = np.bincount(rows.video, minlength=len(ids))
    ratio = most * len(ids) / max(len(rows.scores), 1)  # no proposal at all: recall 0 at every number
    taken = np.minimum((held * ratio).astype(np.int64), held)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(held) - held, held)
    kept = order[rank < np.repeat(taken, held)]
    instances = np.array([row[:2] for video_id in ids for row in truth[video_id]], np.float64)
    first = np.cumsum([0, *(len(truth[video_id]) for video_id in ids)])
    ends = np.concatenate([[0], np.cumsum(taken)])
    hits = _first_hits(rows.segments[kept], ends, instances, first, np.array(tiou, np.float64))
    shares = np.arange(1, most + 1) / most * (most * len(ids) / max(int(taken.sum()), 1))
    seen = np.minimum((taken[:, None] * shares).astype(np.int64), taken[:, None])
    seen_GN = np.repeat(seen, np.diff(first), axis=0)
    recall = np.stack([((row >= 0)[:, None] & (row[:, None] < seen_GN)).mean(axis=0) for row in hits])
    return Proposals(tuple(tiou), shares * (taken.sum() / len(ids)), recall, len(ids), len(instances))
