"""Matrix NMS of one video without storing the matrix: rows of overlaps are used as they are computed."""

# N segments, K classes

from typing import Any

import numpy as np

from tad.core.compiled import compiled
from tad.nms.arithmetic import MATRIX_LINEAR, ONE, ZERO, exponential, overlap_of


@compiled
def _decay(segments: Any, scores: Any, rule: Any) -> None:
    """Multiply the scores of one class, sorted in descending order, by their weights, in place."""
    method, sigma, _, _ = rule
    compensation = np.zeros(len(scores), np.float32)
    for j in range(len(scores)):
        start, end = segments[j, 0], segments[j, 1]
        largest, exponent, weight = ZERO, ZERO, ONE
        for i in range(j):
            if min(end, segments[i, 1]) <= max(start, segments[i, 0]):
                continue
            overlap = overlap_of(start, end, segments[i, 0], segments[i, 1])
            own = compensation[i]
            if overlap > own:
                if method == MATRIX_LINEAR:
                    weight = min(weight, (ONE - overlap) / (ONE - own))
                else:
                    exponent = max(exponent, (overlap - own) * (overlap + own))
            largest = max(largest, overlap)
        compensation[j] = largest
        if method != MATRIX_LINEAR:
            weight = np.float32(exponential(np.float64(-exponent / sigma)))
        scores[j] *= weight


@compiled
def suppress_matrix(
    segments: Any, scores: Any, labels: Any, classes: Any, rule: Any, topk: Any, out_index: Any, out_scores: Any
) -> Any:
    """Write the best candidates of one video after matrix decay to the two outputs → their number."""
    total = len(scores)
    first = np.zeros(classes + 1, np.int64)
    for i in range(total):
        first[labels[i] + 1] += 1
    for c in range(classes):
        first[c + 1] += first[c]
    room = first[:-1].copy()
    rows = np.empty(total, np.int64)  # by class, then descending score, then index
    for i in np.argsort(-scores, kind="mergesort"):
        rows[room[labels[i]]] = i
        room[labels[i]] += 1
    decayed = scores[rows]
    sorted_segments = segments[rows]
    for c in range(classes):
        _decay(sorted_segments[first[c] : first[c + 1]], decayed[first[c] : first[c + 1]], rule)
    final = np.empty(total, np.float32)
    for at in range(total):
        final[rows[at]] = decayed[at]
    kept = 0
    for i in np.argsort(-final, kind="mergesort"):
        if kept == topk or final[i] < rule[3]:
            break
        out_index[kept] = i
        out_scores[kept] = final[i]
        kept += 1
    return kept
