"""The errors of an evaluation sorted by cost, and precision over recall, at one tIoU threshold.

The cost of a detection that matches nothing is what the AP of its class would gain without it: every true positive
below it would move up one rank. The cost of a missed instance is its share of its class, which is what AP would gain if
it were detected with the highest score. Both are divided by the number of classes, so they are in units of mAP. The
precision envelope is not applied, so that costs add up only roughly.
"""

# D detections of a class, G instances, K classes

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tad.metrics.diagnosis import KINDS, RIGHT, Diagnosis

MISSED = "missed"
POINTS = 21  # of a curve, at recall 0, 0.05, …, 1


class Error(NamedTuple):
    """A detection that matches nothing, or an instance that is missed.

    Attributes:
        video: index into `Matches.video_ids`. label: index into the evaluation's labels.
        kind: one of `KINDS`, or `MISSED`.
        start, end: seconds.
        score: of the detection; 0 for a missed instance.
        cost: what it costs, as a fraction of mAP.
    """

    video: int
    label: int
    kind: str
    start: float
    end: float
    score: float
    cost: float


def _cost(right_D: NDArray[np.bool_], instances: int) -> NDArray[np.float64]:
    """Return what AP gains if a detection is removed, for each detection of a class by descending score."""
    rank = np.arange(1, len(right_D) + 1, dtype=np.float64)
    hits = np.cumsum(right_D)
    # precision at a true positive of rank r rises from hits / r to hits / (r - 1); a true positive of rank 1 has none
    gain = np.where(right_D & (rank > 1), hits / np.maximum(rank - 1, 1) - hits / rank, 0.0)
    after = np.concatenate([np.cumsum(gain[::-1])[::-1][1:], [0.0]]) if len(gain) else gain
    return np.asarray(np.where(right_D, 0.0, after / max(instances, 1)))


def worst(diagnosis: Diagnosis, h: int) -> Iterator[Error]:
    """Yield the detections that match nothing at threshold `h` and cost anything."""
    starts, detail, video = diagnosis.matches.starts, diagnosis.detail, diagnosis.matches.video
    for k, instances in enumerate(diagnosis.counts_K.tolist()):
        a, b = int(starts[k]), int(starts[k + 1])
        cost = _cost(diagnosis.right_HD[h, a:b], instances) / len(diagnosis.counts_K)
        for d in np.flatnonzero(cost > 0).tolist():
            start, end = sorted(detail.segments[a + d].tolist())
            kind = KINDS[int(diagnosis.kinds_HD[h, a + d])]
            assert kind != KINDS[RIGHT]
            score = float(detail.scores[a + d])
            yield Error(
                int(video[a + d]), k, kind, round(start, 3), round(end, 3), round(score, 4), round(float(cost[d]), 6)
            )


def missed(diagnosis: Diagnosis, h: int) -> Iterator[Error]:
    """Yield the instances that no detection matches at threshold `h`."""
    detail = diagnosis.detail
    matched = np.zeros(len(detail.classes), np.bool_)
    taken = detail.taken[h]
    matched[taken[taken >= 0]] = True
    for g in np.flatnonzero(~matched).tolist():
        k = int(detail.classes[g])
        start, end = sorted(detail.instances[g].tolist())
        cost = 1 / max(int(diagnosis.counts_K[k]), 1) / len(diagnosis.counts_K)
        yield Error(int(detail.videos[g]), k, MISSED, round(start, 3), round(end, 3), 0.0, round(cost, 6))


def curves(diagnosis: Diagnosis, h: int) -> list[list[float]]:
    """Return, for each class, the best precision at recall 0, 0.05, …, 1 or more, at threshold `h`."""
    starts = diagnosis.matches.starts
    wanted = np.linspace(0, 1, POINTS)
    precisions: list[list[float]] = []
    for k, instances in enumerate(diagnosis.counts_K.tolist()):
        right: Any = diagnosis.right_HD[h, int(starts[k]) : int(starts[k + 1])]
        hits = np.cumsum(right)
        precision = hits / np.arange(1, len(right) + 1)
        recall = hits / max(instances, 1)
        envelope = np.concatenate([np.maximum.accumulate(precision[::-1])[::-1], [0.0]])
        precisions.append(np.round(envelope[np.searchsorted(recall, wanted - 1e-9)], 4).tolist())
    return precisions
