"""Matching of detections with instances, average precision and recall, compiled: sorted arrays → numbers."""

# D detections, G instances, H tIoU thresholds, K classes, N resamples, P detections that find an instance,
# R recall depths, V videos

from typing import Any

import numpy as np

from tad.compiled import compiled


@compiled
def tiou_of(a: Any, b: Any) -> Any:
    """tIoU of two segments; of two points, whose union has no length, 1 if they are the same and 0 if not."""
    inter = min(a[1], b[1]) - max(a[0], b[0])
    if inter <= 0.0:
        return 1.0 if inter == 0.0 and a[0] == b[0] and a[1] == b[1] else 0.0
    return inter / ((a[1] - a[0]) + (b[1] - b[0]) - inter)


@compiled
def match(segments: Any, group: Any, instances: Any, first: Any, tious: Any, depths: Any) -> Any:
    """Walk the detections of all classes, each class by descending score, and give each the instances that it finds.

    A detection takes, among the instances of its video and class that are still free, the one with the largest tIoU
    (the last of equal ones), if that reaches the threshold (inclusive). ActionFormer's evaluator says the same by
    trying the instances in descending order of tIoU.

    Args:
        segments: (D, 2) float64, sorted. group: (D,) row of `first`, one per (class, video).
        instances: (G, 2) float64, sorted by group; those of group g are first[g]:first[g + 1].
        tious: (H,). depths: (R,) recall looks at the best depth · n detections of a video with n instances.

    Returns:
        The instance that a detection takes (H, D) int32, -1 for none, and the best tIoU (R, G) that an instance has
        with the detections of each depth.
    """
    found = np.full((len(tious), len(segments)), -1, np.int32)
    taken = np.zeros((len(tious), len(instances)), np.bool_)
    reached = np.zeros((len(depths), len(instances)), np.float64)
    rank = np.zeros(len(first) - 1, np.int64)
    for d in range(len(segments)):
        a, b = first[group[d]], first[group[d] + 1]
        position = rank[group[d]]
        rank[group[d]] += 1
        best = np.zeros(len(tious), np.float64)
        which = np.full(len(tious), -1, np.int64)
        for g in range(a, b):
            share = tiou_of(segments[d], instances[g])
            for r in range(len(depths)):
                if position < depths[r] * (b - a) and share > reached[r, g]:
                    reached[r, g] = share
            for h in range(len(tious)):
                if share >= tious[h] and share >= best[h] and not taken[h, g]:
                    best[h], which[h] = share, g
        for h in range(len(tious)):
            if which[h] >= 0:
                found[h, d] = which[h]
                taken[h, which[h]] = True
    return found, reached


@compiled
def average_precision(found: Any, instances: Any) -> Any:
    """Area under the precision envelope over recall, all points (VOC 2011).

    Args:
        found: (D,) bool, by descending score. instances: how many there are to find.
    """
    precision = np.empty(len(found), np.float64)
    hits = 0
    for d in range(len(found)):
        hits += found[d]
        precision[d] = hits / (d + 1)
    area = envelope = 0.0
    for d in range(len(found) - 1, -1, -1):
        envelope = max(envelope, precision[d])
        if found[d]:
            area += envelope
    return area / instances


@compiled
def score_classes(
    segments: Any, group: Any, starts: Any, instances: Any, first: Any, videos: Any, tious: Any, depths: Any
) -> Any:
    """AP (H, K), recall (H, R, K) and the instance that each detection takes (H, D); detections of class k are
    starts[k]:starts[k + 1], its groups k·V … (k + 1)·V."""
    classes = len(starts) - 1
    taken, reached = match(segments, group, instances, first, tious, depths)
    found = taken >= 0
    ap = np.zeros((len(tious), classes), np.float64)
    recall = np.zeros((len(tious), len(depths), classes), np.float64)
    for k in range(classes):
        a, b = first[k * videos], first[(k + 1) * videos]
        for h in range(len(tious)):
            ap[h, k] = average_precision(found[h, starts[k] : starts[k + 1]], b - a)
            for r in range(len(depths)):
                hits = 0
                for g in range(a, b):
                    hits += reached[r, g] >= tious[h]
                recall[h, r, k] = hits / (b - a)
    return ap, recall, taken


@compiled
def resampled_precision(video: Any, starts: Any, at: Any, first: Any, found: Any, counts: Any, totals: Any) -> Any:
    """mAP (N, H) when the detections and instances of video v count counts[n, v] times, NaN without instances.

    Between detections that find an instance precision only falls, so the envelope is read at those alone.

    Args:
        video: (D,). starts: (K + 1,) detections of class k are starts[k]:starts[k + 1].
        at: (P,) detections that find an instance at any threshold; first: (K + 1,) where a class begins in it.
        found: (H, P) at which thresholds they do. counts: (N, V). totals: (N, K) instances of the resample.
    """
    scores = np.full((len(counts), len(found)), np.nan, np.float64)
    ranks = np.empty(len(at), np.int64)
    hits = np.empty(len(at), np.int64)
    for n in range(len(counts)):
        classes = 0
        sums = np.zeros(len(found), np.float64)
        for k in range(len(starts) - 1):
            if totals[n, k] == 0:
                continue
            classes += 1
            a, b = first[k], first[k + 1]
            seen, d = 0, starts[k]
            for p in range(a, b):
                while d <= at[p]:
                    seen += counts[n, video[d]]
                    d += 1
                ranks[p] = seen
            for h in range(len(found)):
                total = 0
                for p in range(a, b):
                    total += found[h, p] * counts[n, video[at[p]]]
                    hits[p] = total
                area = envelope = 0.0
                for p in range(b - 1, a - 1, -1):
                    weight = found[h, p] * counts[n, video[at[p]]]
                    if weight:
                        envelope = max(envelope, hits[p] / ranks[p])
                        area += weight * envelope
                sums[h] += area / totals[n, k]
        if classes:
            scores[n] = sums / classes
    return scores
