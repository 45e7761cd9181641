"""THUMOS'14's own evaluation (TH14evalDet), compiled: instances choose detections, ambiguous segments excuse them.

It differs from ActivityNet's rule in four ways. Instances, in the order of the annotation file, each take the free
detection of the largest tIoU, which must be above the threshold, not at it. A detection that finds nothing and touches
an ambiguous segment of its video counts neither as right nor as wrong. Average precision is the mean over the instances
of the precision at the detections that find one, without the envelope. Classes without detections count 0.
"""

# D detections, G instances, A ambiguous segments, H tIoU thresholds, K classes, N resamples, V videos

from typing import Any

import numpy as np

from tad.compiled import compiled
from tad.metrics.kernels import tiou_of


@compiled
def match_instances(segments: Any, group: Any, instances: Any, first: Any, tious: Any) -> Any:
    """Which detections are taken by an instance (H, D); arguments as in `tad.metrics.kernels.match`.

    Of detections with equal tIoU the one with the higher score is taken; those are sorted by score already.
    """
    by_group = np.argsort(group, kind="mergesort")
    found = np.zeros((len(tious), len(segments)), np.bool_)
    a = 0
    while a < len(by_group):
        b = a
        while b < len(by_group) and group[by_group[b]] == group[by_group[a]]:
            b += 1
        g = group[by_group[a]]
        for h in range(len(tious)):
            for i in range(first[g], first[g + 1]):
                best, which = tious[h], -1
                for j in range(a, b):
                    d = by_group[j]
                    if found[h, d]:
                        continue
                    share = tiou_of(segments[d], instances[i])
                    if share > best:
                        best, which = share, d
                if which >= 0:
                    found[h, which] = True
        a = b
    return found


@compiled
def touching(segments: Any, video: Any, ambiguous: Any, first: Any) -> Any:
    """Which detections overlap an ambiguous segment of their video (D,); those of video v are first[v]:first[v + 1]."""
    touches = np.zeros(len(segments), np.bool_)
    for d in range(len(segments)):
        for a in range(first[video[d]], first[video[d] + 1]):
            if min(segments[d, 1], ambiguous[a, 1]) > max(segments[d, 0], ambiguous[a, 0]):
                touches[d] = True
    return touches


@compiled
def mean_precision(found: Any, excused: Any, weight: Any, instances: Any) -> Any:
    """The mean over the instances of the precision at each detection that finds one.

    Args:
        found, excused: (D,) bool, by descending score. weight: (D,) how often each detection counts.
        instances: how many there are.
    """
    hits = seen = 0
    area = 0.0
    for d in range(len(found)):
        if found[d]:
            for _ in range(weight[d]):
                hits += 1
                seen += 1
                area += hits / seen
        elif not excused[d]:
            seen += weight[d]
    return area / instances


@compiled
def devkit_precision(found: Any, touches: Any, starts: Any, totals: Any) -> Any:
    """AP (H, K): detections of class k are starts[k]:starts[k + 1], its instances totals[k]."""
    classes = len(starts) - 1
    ap = np.zeros((len(found), classes), np.float64)
    once = np.ones(len(touches), np.int64)
    for k in range(classes):
        a, b = starts[k], starts[k + 1]
        for h in range(len(found)):
            ap[h, k] = mean_precision(found[h, a:b], touches[a:b], once[a:b], totals[k])
    return ap


@compiled
def devkit_resampled(video: Any, starts: Any, found: Any, touches: Any, counts: Any, totals: Any) -> Any:
    """mAP (N, H) of resamples; arguments as in `tad.metrics.kernels.resampled_precision`, `found` (H, D)."""
    scores = np.full((len(counts), len(found)), np.nan, np.float64)
    weight = np.empty(len(video), np.int64)
    for n in range(len(counts)):
        for d in range(len(video)):
            weight[d] = counts[n, video[d]]
        classes = 0
        sums = np.zeros(len(found), np.float64)
        for k in range(len(starts) - 1):
            if totals[n, k] == 0:
                continue
            classes += 1
            a, b = starts[k], starts[k + 1]
            for h in range(len(found)):
                sums[h] += mean_precision(found[h, a:b], touches[a:b], weight[a:b], totals[n, k])
        if classes:
            scores[n] = sums / classes
    return scores
