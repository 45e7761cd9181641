"""Class-agnostic proposals: average recall at an average number of proposals (AR@AN), and the area under the curve.

This is ActivityNet's proposal task, as the challenge's script (eval_proposal.py) scores it. The n-th point of the curve
does not use n proposals of every video, but the same share of each video's proposals. The share follows from the number
of proposals in the whole file, including those in videos without instances; the axis of the curve is computed from the
proposals that were used.
"""

# G instances, H tIoU thresholds, N average numbers of proposals, P proposals, V videos

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.core.compiled import compiled
from tad.core.errors import TadError
from tad.metrics.columns import Columns, collect, id_text
from tad.metrics.inputs import Detections, Truth, detection_rows

Array = NDArray[np.float64]
TIOU = tuple(np.linspace(0.5, 0.95, 10).tolist())
MOST = 100


@dataclass(frozen=True)
class Proposals:
    """The curve of average recall over the average number of proposals.

    Attributes:
        tiou: (H,) thresholds. number: (N,) average number of proposals per video. recall: (H, N) fractions.
        videos: number of videos with instances; other videos do not count.
        instances: number of instances, including duplicates.
    """

    tiou: tuple[float, ...]
    number: Array
    recall: Array
    videos: int
    instances: int

    def average_recall(self, number: int) -> float:
        """Return AR@`number` as a fraction: the recall, averaged over thresholds, at the `number`-th point (from 1)."""
        return float(self.recall[:, number - 1].mean())

    @property
    def auc(self) -> float:
        """Area under the average recall over `number`, divided by the last number; a fraction, 0 without proposals."""
        return float(np.trapezoid(self.recall.mean(axis=0), self.number) / (self.number[-1] or 1.0))


@compiled
def overlap_of(a: Any, b: Any) -> Any:
    """Compute the tIoU of two segments; 0 if they do not intersect, so a segment of zero length matches nothing."""
    inter = min(a[1], b[1]) - max(a[0], b[0])
    return inter / ((a[1] - a[0]) + (b[1] - b[0]) - inter) if inter > 0.0 else 0.0


@compiled
def _first_hits(proposals: Any, ends: Any, instances: Any, first: Any, tious: Any) -> Any:
    """Return the rank (H, G), from 0, of the first proposal that reaches each threshold; -1 for none."""
    hits = np.full((len(tious), len(instances)), -1, np.int64)
    for v in range(len(ends) - 1):
        for g in range(first[v], first[v + 1]):
            reached = 0
            for p in range(ends[v], ends[v + 1]):
                share = overlap_of(proposals[p], instances[g])
                while reached < len(tious) and share >= tious[reached]:
                    hits[reached, g] = p - ends[v]
                    reached += 1
                if reached == len(tious):
                    break
    return hits


def average_recall(
    truth: Truth,
    detections: Detections | Columns,
    *,
    tiou: Sequence[float] = TIOU,
    most: int = MOST,
    left_out: Collection[str] = (),
) -> Proposals:
    """Compute AR@AN for AN = 1 … `most`, as the ActivityNet challenge's script does.

    Args:
        truth: video id → (start, end, label) in seconds. detections: as in `evaluate`; labels do not matter.
        tiou: thresholds in increasing order.
        left_out: videos whose proposals are ignored (ActivityNet's blocked list).

    Raises:
        TadError: thresholds that do not increase, no instance, no common video, or numbers that are not finite.
    """
    if not len(tiou) or list(tiou) != sorted(tiou):
        raise TadError(f"tiou: {list(tiou)}: thresholds must be in increasing order")
    ids = sorted(video_id for video_id, rows in truth.items() if rows)
    if not ids:
        raise TadError("ground truth: no video has an instance, so that recall is undefined; is this the right split?")
    columns = detections if isinstance(detections, Columns) else collect(detections.items())
    if columns.video_ids and set(map(id_text, columns.video_ids)).isdisjoint(map(id_text, ids)):
        raise TadError(f"detections: none is in the {len(ids)} videos with instances; are split and video ids right?")
    rows = detection_rows(columns, ids, columns.labels, as_given=True)
    ignored = [v for v, video_id in enumerate(columns.video_ids) if id_text(video_id) in left_out]
    counted = len(columns) - int(np.isin(columns.video, ignored).sum())
    order = np.lexsort((rows.segments[:, 1], rows.segments[:, 0], -rows.scores, rows.video))
    held = np.bincount(rows.video, minlength=len(ids))
    ratio = most * len(ids) / max(counted, 1)  # without any proposal, recall is 0 everywhere
    taken = np.minimum((held * ratio).astype(np.int64), held)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(held) - held, held)
    used = order[rank < np.repeat(taken, held)]
    instances = np.array([row[:2] for video_id in ids for row in truth[video_id]], np.float64)
    first = np.cumsum([0, *(len(truth[video_id]) for video_id in ids)])
    ends = np.concatenate([[0], np.cumsum(taken)])
    hits = _first_hits(rows.segments[used], ends, instances, first, np.array(tiou, np.float64))
    shares = np.arange(1, most + 1) / most * (most * len(ids) / max(int(taken.sum()), 1))
    seen = np.minimum((taken[:, None] * shares).astype(np.int64), taken[:, None])
    seen_GN = np.repeat(seen, np.diff(first), axis=0)
    recall = np.stack([((row >= 0)[:, None] & (row[:, None] < seen_GN)).mean(axis=0) for row in hits])
    return Proposals(tuple(tiou), shares * (taken.sum() / len(ids)), recall, len(ids), len(instances))
