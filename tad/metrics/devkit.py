"""The evaluation of the THUMOS'14 development kit (TH14evalDet), compiled.

This is the version of 2015 (TH14evalDet_Updated), whose average precision is not interpolated. Detections of equal
score keep the order of the file within a video, and the ends of reversed segments are swapped.

It differs from ActivityNet's rule in four ways. Each instance, in the order of the annotation file, is matched to the
unmatched detection with the largest tIoU, which must exceed the threshold. An unmatched detection that overlaps an
ambiguous segment of its video is ignored. Average precision is the mean, over the instances, of the precision at their
matched detections, without a precision envelope. Classes without detections count 0.
"""

# D detections, G instances, A ambiguous segments, H tIoU thresholds, K classes, N resamples, V videos

from typing import Any

import numpy as np

from tad.core.compiled import compiled


@compiled
def overlap_of(a: Any, b: Any) -> Any:
    """Compute the intersection over the joint span of two segments, as the kit does; 0 for points."""
    inter = min(a[1], b[1]) - max(a[0], b[0])
    return inter / (max(a[1], b[1]) - min(a[0], b[0])) if inter > 0.0 else 0.0


@compiled
def match_instances(segments: Any, group: Any, instances: Any, first: Any, tious: Any) -> Any:
    """Compute which detections are matched to an instance (H, D); arguments as in `tad.metrics.matching.score_classes`.

    Among detections with equal tIoU the first is matched; they are sorted by score, then by the order of the file.
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
                    share = overlap_of(segments[d], instances[i])
                    if share > best:
                        best, which = share, d
                if which >= 0:
                    found[h, which] = True
        a = b
    return found


@compiled
def touching(segments: Any, video: Any, ambiguous: Any, first: Any) -> Any:
    """Compute which detections overlap an ambiguous segment of their video (D,).

    The ambiguous segments of video v are first[v]:first[v + 1].
    """
    touches = np.zeros(len(segments), np.bool_)
    for d in range(len(segments)):
        for a in range(first[video[d]], first[video[d] + 1]):
            if min(segments[d, 1], ambiguous[a, 1]) > max(segments[d, 0], ambiguous[a, 0]):
                touches[d] = True
    return touches


@compiled
def mean_precision(found: Any, excused: Any, weight: Any, instances: Any) -> Any:
    """Compute the mean, over the instances, of the precision at their matched detections.

    Args:
        found, excused: (D,) whether a detection is matched, or ignored, by descending score.
        weight: (D,) how often each detection counts.
        instances: number of instances.
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
    """Compute AP (H, K); the detections of class k are starts[k]:starts[k + 1], and it has totals[k] instances."""
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
    """Compute mAP (N, H) if the detections and instances of video v count counts[n, v] times; NaN without instances.

    Args:
        video: (D,) video index. starts: (K + 1,) detections of class k are starts[k]:starts[k + 1].
        found: (H, D) whether they are matched. touches: (D,) see `touching`.
        counts: (N, V) multiplicity of each video. totals: (N, K) number of instances per resample and class.
    """
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
