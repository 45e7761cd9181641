"""Average precision and bootstrap of thousands of classes, compiled.

The functions of `tad.metrics.matching` and `tad.metrics.bootstrap` call NumPy for every class, which is quick for
hundreds of classes with many detections and slow for 100,000 with a few each. These give the same bits: each number
takes the same operations in the same order.
"""

# D detections, G instances, H tIoU thresholds, K classes, N resamples, V videos

from typing import Any

import numpy as np

from tad.core.compiled import compiled

BLOCK = 128  # resamples at a time, so that the rows of all videos stay in the cache


@compiled
def average_precisions(found_P: Any, cuts: Any, starts: Any, totals_K: Any) -> Any:
    """Compute AP (K,); see `tad.metrics.matching.average_precision`.

    Args:
        found_P: positions of the matched detections, sorted; those of class k are found_P[cuts[k]:cuts[k + 1]].
        cuts: (K + 1,). starts: (K + 1,) position of each class's first detection.
        totals_K: number of instances.
    """
    ap = np.zeros(len(totals_K))
    for k in range(len(totals_K)):
        envelope = area = 0.0
        for p in range(cuts[k + 1] - 1, cuts[k] - 1, -1):
            envelope = max(envelope, (p - cuts[k] + 1) / (found_P[p] - starts[k] + 1))
            area += envelope
        if cuts[k + 1] > cuts[k]:
            ap[k] = area / totals_K[k]
    return ap


@compiled
def resampled(video: Any, starts: Any, found: Any, truth_video: Any, truth_starts: Any, counts_VN: Any) -> Any:
    """Compute the sum of the classes' AP (H, N) and the number of classes with instances (N,) of each resample.

    Args:
        video: (D,) video of each detection. starts: (K + 1,) detections of class k are starts[k]:starts[k + 1].
        found: (H, D) whether a detection is matched.
        truth_video: (G,) video of each instance, by class. truth_starts: (K + 1,) like `starts`, of instances.
        counts_VN: how often each video occurs in each resample, as float64.
    """
    heights, resamples, longest = len(found), counts_VN.shape[1], 0
    for k in range(len(starts) - 1):
        longest = max(longest, starts[k + 1] - starts[k])
    sums, classes = np.zeros((heights, resamples)), np.zeros(resamples, np.int64)
    ranks, precision = np.empty((longest, BLOCK)), np.empty((longest, BLOCK))
    for n in range(0, resamples, BLOCK):
        rows = np.ascontiguousarray(counts_VN[:, n : n + BLOCK])
        size = rows.shape[1]
        seen, hits, envelope, area, total = (
            np.empty(size), np.empty(size), np.empty(size), np.empty(size), np.empty(size),
        )  # fmt: skip
        for k in range(len(starts) - 1):
            total[:] = 0.0
            for g in range(truth_starts[k], truth_starts[k + 1]):
                times = rows[truth_video[g]]
                for i in range(size):
                    total[i] += times[i]
            seen[:] = 0.0
            for i in range(size):
                classes[n + i] += total[i] > 0.0
            a, b = starts[k], starts[k + 1]
            for d in range(a, b):
                times, rank = rows[video[d]], ranks[d - a]
                for i in range(size):
                    seen[i] += times[i]
                    rank[i] = seen[i] if seen[i] > 1.0 else 1.0
            for h in range(heights):
                if h > 0 and (found[h, a:b] == found[h - 1, a:b]).all():  # the same matches have the same area
                    for i in range(size):
                        sums[h, n + i] += area[i] / max(total[i], 1.0)
                    continue
                hits[:] = 0.0
                envelope[:] = 0.0
                area[:] = 0.0
                for d in range(a, b):
                    if found[h, d]:
                        times, rank, here = rows[video[d]], ranks[d - a], precision[d - a]
                        for i in range(size):
                            hits[i] += times[i]
                            here[i] = hits[i] / rank[i]
                for d in range(b - 1, a - 1, -1):
                    if found[h, d]:
                        times, here = rows[video[d]], precision[d - a]
                        for i in range(size):
                            envelope[i] = here[i] if here[i] > envelope[i] else envelope[i]
                            area[i] += envelope[i] * times[i]
                for i in range(size):
                    sums[h, n + i] += area[i] / max(total[i], 1.0)
    return sums, classes
