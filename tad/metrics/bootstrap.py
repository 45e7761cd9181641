"""How much a score owes to the choice of videos: matches of an evaluation → scores of resampled videos → interval.

A resample draws as many videos as there are, with replacement; one drawn twice counts as two videos that are alike.
Which detections find an instance does not depend on the draw, so matching is done once and only the curves again.
A resample has fewer different videos, and the precision envelope of fewer detections lies higher: with few videos the
score itself may stand near the lower end of its interval. Differences of two runs are hardly touched by that.
"""

# D detections, H tIoU thresholds, K classes, N resamples, P detections that find an instance, V videos

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

RESAMPLES, LEVEL, SEED = 1000, 0.95, 0


@dataclass(frozen=True)
class Matches:
    """What of an evaluation resampling needs.

    Attributes:
        video_ids: (V,) the evaluated videos.
        video: (D,) row of each detection's video, by class, then descending score.
        starts: (K + 1,) detections of class k are starts[k]:starts[k + 1].
        found: (H, D) whether a detection finds an instance.
        instances: (V, K).
        touches: (D,) whether a detection touches an ambiguous segment, under THUMOS'14's own rule; else None.
    """

    video_ids: tuple[str, ...]
    video: Counts
    starts: Counts
    found: NDArray[np.bool_]
    instances: Counts
    touches: NDArray[np.bool_] | None = None


def draw(videos: int, *, resamples: int = RESAMPLES, seed: int = SEED) -> Counts:
    """How often each video is in each resample (N, V); every row sums to `videos`."""
    return np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), size=resamples)


def resample(matches: Matches, counts_NV: Counts) -> Array:
    """mAP per resample and tIoU (N, H), fractions; NaN where a resample has no instance.

    A class without instances in a resample does not count there. Copies of a video stand next to each other among
    detections of equal score. Detections of classes without any instance are treated as in the evaluation itself.
    """
    from tad.metrics.devkit import devkit_resampled
    from tad.metrics.kernels import resampled_precision

    assert counts_NV.shape[1] == len(matches.video_ids)
    at = np.flatnonzero(matches.found.any(axis=0))
    totals_NK = (counts_NV.astype(np.float64) @ matches.instances.astype(np.float64)).astype(np.int64)
    result: Array
    if matches.touches is not None:
        result = devkit_resampled(matches.video, matches.starts, matches.found, matches.touches, counts_NV, totals_NK)
        return result
    found = np.ascontiguousarray(matches.found[:, at])
    result = resampled_precision(
        matches.video, matches.starts, at, np.searchsorted(at, matches.starts), found, counts_NV, totals_NK
    )
    return result


def interval(values: Array) -> tuple[float, float]:
    """The percentile interval at `LEVEL` of the resampled values (N,); those that are NaN do not count."""
    kept = values[np.isfinite(values)]
    low, high = np.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def describe(values_NH: Array, tiou: Sequence[float], *, seed: int = SEED) -> dict[str, Any]:
    """The entry `interval` of map.json: what was drawn how often, and the intervals as fractions."""
    return {
        "method": "percentile bootstrap over videos",
        "level": LEVEL,
        "resamples": len(values_NH),
        "seed": seed,
        "average_mAP": list(interval(values_NH.mean(axis=1))),
        "mAP": {f"{t:g}": list(interval(values_NH[:, h])) for h, t in enumerate(tiou)},
    }
