"""Bootstrap confidence intervals over videos: matches of an evaluation → scores of resampled videos → interval.

A resample draws as many videos as the split has, with replacement; a video drawn twice counts as two identical videos.
The matches do not depend on the draw, so matching runs once and only the precision-recall curves are recomputed.
A resample has fewer distinct videos, and the precision envelope of fewer detections is higher: with few videos the
score itself may lie near the lower end of its interval. The difference of two runs is hardly affected by this bias.
"""

# D detections, H tIoU thresholds, K classes, N resamples, P matched detections, V videos

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.metrics.matching import FEW_CLASSES
from tad.metrics.moments import Curves

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

RESAMPLES, LEVEL, SEED = 1000, 0.95, 0


@dataclass(frozen=True)
class Matches:
    """The matches of an evaluation, as resampling needs them.

    Attributes:
        video_ids: (V,) the evaluated videos.
        video: (D,) index of each detection's video; detections are sorted by class, then by descending score.
        starts: (K + 1,) detections of class k are starts[k]:starts[k + 1].
        found: (H, D) whether a detection matches an instance (a true positive).
        truth_video, truth_class: (G,) index of each instance's video and class, sorted by class.
        touches: (D,) whether a detection overlaps an ambiguous segment (only under the THUMOS'14 rule, else None).
        curves: the curves of SoccerNet's rule, which takes the place of the area under the envelope; else None.
    """

    video_ids: tuple[str, ...]
    video: Counts
    starts: Counts
    found: NDArray[np.bool_]
    truth_video: Counts
    truth_class: Counts
    touches: NDArray[np.bool_] | None = None
    curves: Curves | None = None

    @property
    def instances(self) -> Counts:
        """Number of instances (V, K); a gigabyte for 10,000 videos and 13,000 classes."""
        videos, classes = len(self.video_ids), len(self.starts) - 1
        cells = self.truth_video * classes + self.truth_class
        return np.bincount(cells, minlength=videos * classes).reshape(videos, classes)


def draw(videos: int, *, resamples: int = RESAMPLES, seed: int = SEED) -> Counts:
    """Draw resamples: how often each video occurs in each of them (N, V); every row sums to `videos`."""
    return np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), size=resamples)


def resample(matches: Matches, counts_NV: Counts) -> Array:
    """Compute mAP per resample and tIoU (N, H) as fractions; NaN where a resample has no instance.

    A class without instances in a resample does not count there. Among detections of equal score, the copies of a
    video are adjacent. Detections of classes without any instance are treated as in the evaluation itself.
    """
    assert counts_NV.shape[1] == len(matches.video_ids)
    if len(matches.starts) - 1 > FEW_CLASSES and matches.touches is None and matches.curves is None:
        return _resample_many(matches, counts_NV)
    totals_NK = (counts_NV.astype(np.float64) @ matches.instances.astype(np.float64)).astype(np.int64)
    if matches.curves is not None:
        return matches.curves.mean_ap(counts_NV, totals_NK)
    if matches.touches is not None:
        from tad.metrics.devkit import devkit_resampled  # imports numba

        result: Array = devkit_resampled(
            matches.video, matches.starts, matches.found, matches.touches, counts_NV, totals_NK
        )
        return result
    classes_N = (totals_NK > 0).sum(axis=1)
    rows_VN = list(np.ascontiguousarray(counts_NV.T, np.float64))  # contiguous: one row of N numbers per video
    sums_HN = np.zeros((len(matches.found), len(counts_NV)))
    for k, total_N in enumerate(totals_NK.T):
        area_HN = _areas(matches, k, rows_VN)
        sums_HN += area_HN / np.maximum(total_N, 1)  # without instances there is no matched detection and no area
    return _means(sums_HN, classes_N)


def _resample_many(matches: Matches, counts_NV: Counts) -> Array:
    """Do the same with compiled loops over the classes."""
    from tad.metrics.many_classes import resampled  # imports numba

    truth_starts = np.searchsorted(matches.truth_class, np.arange(len(matches.starts)))
    rows_VN = np.ascontiguousarray(counts_NV.T, np.float64)
    return _means(*resampled(matches.video, matches.starts, matches.found, matches.truth_video, truth_starts, rows_VN))


def _means(sums_HN: Array, classes_N: Counts) -> Array:
    scores_NH = np.full((len(classes_N), len(sums_HN)), np.nan)
    scores_NH[classes_N > 0] = (sums_HN[:, classes_N > 0] / classes_N[classes_N > 0]).T
    return scores_NH


def _areas(matches: Matches, k: int, rows_VN: list[Array]) -> Array:
    """Compute the area under the precision envelope (H, N) of class k, if video v occurs rows_VN[v] times.

    Between matched detections precision can only fall, so the envelope is evaluated at matched detections only. The
    loops run over detections, and each step is one operation on a row of N resamples: whole numbers as float64, exact.
    """
    a, b = matches.starts[k], matches.starts[k + 1]
    video = matches.video[a:b].tolist()
    at = np.flatnonzero(matches.found[:, a:b].any(axis=0)).tolist()
    size = len(rows_VN[0])
    ranks, seen, done = np.empty((len(at), size)), np.zeros(size), 0
    for rank, end in zip(ranks, at, strict=True):
        for v in video[done : end + 1]:
            np.add(seen, rows_VN[v], out=seen)
        done = end + 1
        np.maximum(seen, 1.0, out=rank)  # 0 only where no detection has been seen, so that there are no hits either
    area_HN, precision, product = np.zeros((len(matches.found), size)), np.empty((len(at), size)), np.empty(size)
    for area, found in zip(area_HN, matches.found[:, a:b], strict=True):
        hits, envelope = np.zeros(size), np.zeros(size)
        steps = [(rows_VN[video[d]], ranks[p], precision[p]) for p, d in enumerate(at) if found[d]]
        for times, rank, here in steps:
            np.add(hits, times, out=hits)
            np.divide(hits, rank, out=here)
        for times, _, here in reversed(steps):
            np.maximum(envelope, here, out=envelope)
            np.multiply(envelope, times, out=product)
            np.add(area, product, out=area)
    return area_HN


def interval(values: Array) -> tuple[float, float]:
    """Return the percentile interval at `LEVEL` of the resampled values (N,), ignoring NaN."""
    finite = values[np.isfinite(values)]
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def describe(
    values_NH: Array, names: Sequence[str], weights_H: Array | None = None, *, seed: int = SEED
) -> dict[str, Any]:
    """Return the entry `interval` of map.json: the method, its parameters and the intervals as fractions.

    `names` are those of the thresholds, and `weights_H` their weights in the average; by default they are equal.
    """
    return {
        "method": "percentile bootstrap over videos",
        "level": LEVEL,
        "resamples": len(values_NH),
        "seed": seed,
        "average_mAP": list(interval(values_NH.mean(axis=1) if weights_H is None else values_NH @ weights_H)),
        "mAP": {name: list(interval(values_NH[:, h])) for h, name in enumerate(names)},
    }
