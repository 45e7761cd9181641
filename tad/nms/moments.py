"""Suppression of moments by distance: the reference, in plain loops, and compiled loops with equal bits.

Per video, and per class with `per_class`: pick the highest score (ties: the first row); then `hard` removes the others
at most `window` away, and `soft` multiplies the scores of those less than `window` away by (distance / window)², in the
order of picking. Moments at the same time are removed by both. With `none` nothing is suppressed. Moments with a score
below min_score are removed, the picked ones too. The result is sorted by score, then row, and cut to topk.
Arithmetic is in float32.

E2E-Spot's script removes what has a higher score within the window even if that was removed itself; here, as in the
usual greedy suppression, only picks remove others.
"""

# N moments, M kept moments

from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np

from tad.nms.types import Floats, Indices

ZERO, ONE = np.float32(0), np.float32(1)


def reference(
    times: Floats, scores: Floats, labels: Indices, *, method: str, window: float, min_score: float, per_class: bool,
    topk: int,
) -> tuple[Indices, Floats]:  # fmt: skip
    """Suppress the moments of one video, as the definition says it → rows (M,) and scores (M,)."""
    groups = labels if per_class else np.zeros(len(labels), np.int64)
    picked: list[tuple[float, int]] = []
    for label in np.unique(groups):
        rest = np.flatnonzero((groups == label) & (scores >= np.float32(min_score)))
        current = scores.copy()
        while len(rest):
            best = rest[np.argmax(current[rest])]
            picked.append((-float(current[best]), int(best)))
            rest = rest[rest != best]
            weight = weights(times[rest], times[best], method=method, window=np.float32(window))
            current[rest] *= weight
            rest = rest[(weight > 0) & (current[rest] >= np.float32(min_score))]
    picked = sorted(picked)[:topk]
    rows = np.array([row for _, row in picked], np.int64)
    return rows, np.array([-score for score, _ in picked], np.float32)


def weights(times: Floats, pick: Any, *, method: str, window: Any) -> Floats:
    """Return the weights (N,) by which a pick multiplies the scores of others; 0 removes them."""
    distance = np.abs(times - pick)
    if method == "hard":
        return np.where(distance <= window, ZERO, ONE)
    if method == "soft":
        part = distance / window
        return np.where(distance < window, part * part, ONE).astype(np.float32)
    return np.ones(len(times), np.float32)


def _loops(times: Any, scores: Any, order: Any, hard: Any, window: Any, least: Any, out: Any) -> Any:
    """Write the scores of picks to `out` (N,), sorted like `order`; -1: removed. One class, sorted by time.

    A heap holds the scores, of which outdated ones are upper bounds: one that has fallen sinks.
    """
    total = len(times)
    current = scores.copy()
    heap = [(-np.float64(scores[i]), order[i], i) for i in range(total) if scores[i] >= least]
    heapify(heap)
    done = np.zeros(total, np.bool_)
    while len(heap) > 0:
        negative, row, i = heappop(heap)
        if done[i]:
            continue
        if -negative != np.float64(current[i]):
            heappush(heap, (-np.float64(current[i]), row, i))
            continue
        done[i] = True
        out[i] = current[i]
        for step in (-1, 1):
            j = i + step
            while 0 <= j < total:
                distance = np.abs(times[j] - times[i])
                if distance > window or (not hard and distance >= window):
                    break
                if not done[j]:
                    part = distance / window
                    current[j] = ZERO if hard else current[j] * (part * part)
                    if hard or part * part <= ZERO or current[j] < least:
                        done[j] = True
                j += step
    return out


def fast(
    times: Floats, scores: Floats, labels: Indices, *, method: str, window: float, min_score: float, per_class: bool,
    topk: int,
) -> tuple[Indices, Floats]:  # fmt: skip
    """Suppress the moments of one video with compiled loops; the result is that of `reference`."""
    from tad.core.compiled import compiled

    if "loops" not in _COMPILED:
        _COMPILED["loops"] = compiled(_loops)
    loops, least = _COMPILED["loops"], np.float32(min_score)
    if method == "none" or not len(scores):
        rows = np.flatnonzero(scores >= least)
        rows = rows[np.lexsort((rows, -scores[rows]))][:topk]
        return rows, scores[rows]
    groups = labels if per_class else np.zeros(len(labels), np.int64)
    order = np.lexsort((times, groups))
    values = np.full(len(scores), -ONE)
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    for part in np.split(order, cuts):
        out = np.full(len(part), -ONE)
        arguments = times[part], scores[part], part.astype(np.int64), method == "hard", np.float32(window), least
        values[part] = loops(*arguments, out)
    rows = np.flatnonzero(values >= 0)
    rows = rows[np.lexsort((rows, -values[rows]))][:topk]
    return rows, values[rows]


_COMPILED: dict[str, Any] = {}
