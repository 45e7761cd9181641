"""Reference implementation of suppression in plain float32 steps: one pick at a time, then all other segments.

All other engines must return the same indices. The rules (ActionFormer, Bodla et al. 2017 "Soft-NMS"):

- The overlap is intersection / (length + 1e-6 + other length + 1e-6 - intersection), in float32.
- The remaining segment with the highest score is picked and keeps its current score; ties go to the lowest input index.
- Then every other remaining score is multiplied by a weight: gaussian exp(-overlap² / sigma); linear 1 - overlap where
  overlap ≥ tiou; vanilla 0 where overlap ≥ tiou. The exponential is spelled out in float64 (`exponential`) and rounded
  to float32: its bits follow from IEEE arithmetic alone, not from the library of a CPU or a GPU.
- Then segments with a score below min_score are removed. The pick itself is never tested, so a class with candidates
  keeps at least one. A vanilla weight of 0 removes the segment even if min_score is 0.
- hard: scores ≤ min_score are removed first (none if min_score is 0), picks keep their scores, and segments with
  overlap ≥ tiou are removed.
- matrix_gaussian, matrix_linear (Wang et al. 2020, SOLOv2, in one dimension): there are no picks. In order of score,
  then input index, candidate i has the compensation c_i, its largest overlap with an earlier candidate (0 for the
  first). The score of j is multiplied once, by the minimum of 1 and, over the earlier i whose overlap o with j exceeds
  c_i, exp(-(o² - c_i²) / sigma) or (1 - o) / (1 - c_i). For o ≤ c_i the published quotient is at least 1, so omitting
  it changes nothing. Then all scores below min_score are removed.
- none: only min_score and topk.
- Voting: a kept segment becomes the weighted mean of all input segments (of its class, with per_class) whose tIoU with
  it, here without the 1e-6, is at least `voting`; the weight is the input score, or score · tIoU. Sums are in float64.
- The result is sorted by score, then input index, and cut to topk.
- Agreement (ours): the score of each kept segment is multiplied by the mean of its tIoU, without the 1e-6 and before
  voting, with the input segments (of its class, with per_class) that it overlaps, weighted by their input scores. It is
  an estimate of the segment's tIoU with the truth: the candidates are guesses at it, and their scores probabilities. A
  segment agrees with itself by 1. Sums are in float64; then the result is sorted again.
"""

# N segments, M kept segments

import math

import numpy as np
from numpy.typing import NDArray

from tad.nms.types import Floats, Indices

LENGTH_EPSILON = np.float32(1e-6)
LOG2_E = 1.4426950408889634
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # LN2_HIGH · k is exact for |k| < 2^20
TAYLOR = [1 / math.factorial(n) for n in range(12)]
SMALLEST_EXPONENT = -110.0  # below, the result is 0 in float32

Exponents = NDArray[np.float64]


def exponential(x: Exponents) -> Exponents:
    """Compute exp(x) for x ≤ 0 to 1e-14, as 2^k · exp(r) with |r| ≤ ln 2 / 2, by sums and products in this order."""
    x = np.maximum(x, SMALLEST_EXPONENT)
    k = np.floor(x * LOG2_E + 0.5)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    r2 = r * r
    r4 = r2 * r2
    a, b, c, d, e, f = (TAYLOR[n] + TAYLOR[n + 1] * r for n in range(0, 12, 2))
    series = ((a + b * r2) + (c + d * r2) * r4) + (e + f * r2) * (r4 * r4)
    return np.asarray(np.ldexp(series, k.astype(np.int32)))


def overlaps(segment: Floats, others: Floats, *, epsilon: np.float32 = LENGTH_EPSILON) -> Floats:
    """Compute the overlap of one segment (2,) with others (N, 2) → (N,) float32; 0 if they do not intersect."""
    start, end = np.maximum(segment[0], others[:, 0]), np.minimum(segment[1], others[:, 1])
    inter = np.maximum(end - start, np.float32(0))
    union = ((segment[1] - segment[0]) + epsilon) + ((others[:, 1] - others[:, 0]) + epsilon) - inter
    return np.where(inter > 0, inter / np.where(inter > 0, union, np.float32(1)), np.float32(0)).astype(np.float32)


def weights(overlap: Floats, *, method: str, sigma: float, tiou: float) -> Floats:
    """Return the weights (N,) float32 by which a pick multiplies the scores of other segments."""
    if method == "gaussian":
        exponent = -(overlap * overlap) / np.float32(sigma)
        return exponential(exponent.astype(np.float64)).astype(np.float32)
    near = overlap >= np.float32(tiou)
    reduced = np.float32(1) - overlap if method == "linear" else np.zeros_like(overlap)
    return np.where(near, reduced, np.float32(1)).astype(np.float32)


def pick(
    segments: Floats, scores: Floats, *, method: str, sigma: float, tiou: float, min_score: float
) -> tuple[Indices, Floats]:
    """Pick segments (N, 2) of one class → indices (M,) and scores (M,), in the order of picking."""
    least = np.float32(min_score)
    current = scores.copy()
    rest = np.arange(len(scores))
    if method == "none":
        rest = rest[scores >= least]
        rest = rest[np.lexsort((rest, -scores[rest]))]
        return rest, scores[rest]
    if method == "hard" and min_score > 0:
        rest = rest[scores > least]
    kept: list[int] = []
    while len(rest):
        best = rest[np.argmax(current[rest])]  # argmax: the first, hence lowest, index of a tie
        kept.append(int(best))
        rest = rest[rest != best]
        weight = weights(overlaps(segments[best], segments[rest]), method=method, sigma=sigma, tiou=tiou)
        if method in ("hard", "vanilla"):
            rest = rest[weight > 0]
        else:
            current[rest] *= weight
        if method != "hard":
            rest = rest[current[rest] >= least]
    return np.array(kept, np.int64), current[kept]


def matrix_decay(
    segments: Floats, scores: Floats, *, method: str, sigma: float, min_score: float
) -> tuple[Indices, Floats]:
    """Apply matrix NMS to segments (N, 2) of one class → indices (M,), scores (M,), by decayed score, then index."""
    order = np.lexsort((np.arange(len(scores)), -scores))
    compensation = np.zeros(len(order), np.float32)
    decayed = scores[order]
    one = np.float32(1)
    for j, own in enumerate(order):
        overlap = overlaps(segments[own], segments[order[:j]])
        compensation[j] = overlap.max(initial=0)
        met = overlap > compensation[:j]
        o, c = overlap[met], compensation[:j][met]
        if method == "matrix_linear":
            weight = ((one - o) / (one - c)).min(initial=1)
        else:  # the smallest weight has the largest exponent
            exponent = -((o - c) * (o + c)).max(initial=0) / np.float32(sigma)
            weight = np.float32(exponential(np.array(exponent, np.float64)))
        decayed[j] *= np.float32(weight)
    stays = decayed >= np.float32(min_score)
    order, decayed = order[stays], decayed[stays]
    ranks = np.lexsort((order, -decayed))
    return order[ranks], decayed[ranks]


def vote(segment: Floats, voters: Floats, scores: Floats, *, voting: float, voting_weight: str) -> Floats:
    """Return the weighted mean (2,) of the voters (N, 2) with tIoU >= `voting`, or `segment` if none has weight."""
    share = overlaps(segment, voters, epsilon=np.float32(0))
    total = start = end = 0.0
    for k in np.flatnonzero(share >= np.float32(voting)):
        weight = float(scores[k]) * (float(share[k]) if voting_weight == "score*tiou" else 1.0)
        total += weight
        start += weight * float(voters[k, 0])
        end += weight * float(voters[k, 1])
    return np.array([start / total, end / total], np.float32) if total > 0 else segment


def agreed(own: int, segments: Floats, scores: Floats) -> np.float32:
    """Return the mean tIoU of segment `own` with those of (N, 2) that it overlaps, weighted by their scores (N,)."""
    share = overlaps(segments[own], segments, epsilon=np.float32(0))
    share[own] = 1
    total = met = 0.0
    for k in np.flatnonzero(share > 0):
        total += float(scores[k])
        met += float(scores[k]) * float(share[k])
    return np.float32(met / total if total > 0 else 1.0)


def suppress_video(
    segments: Floats,
    scores: Floats,
    labels: Indices,
    *,
    method: str,
    sigma: float,
    tiou: float,
    min_score: float,
    per_class: bool,
    topk: int,
    voting: float,
    voting_weight: str,
    agreement: bool,
) -> tuple[Indices, Floats, Floats]:
    """Suppress the candidates of one video.

    Args:
        segments: (N, 2) float32, any unit. scores: (N,) float32. labels: (N,) integers.
        The settings are those of `tad.settings.stages.NmsSpec`.

    Returns:
        Input indices (M,), segments (M, 2) after voting, scores (M,) after decay and agreement; M ≤ topk.
    """
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)] if per_class else [np.arange(len(scores))]
    picked: list[tuple[float, int, int]] = []
    for number, group in enumerate(groups):
        own, values = segments[group], scores[group]
        if method.startswith("matrix"):
            index, score = matrix_decay(own, values, method=method, sigma=sigma, min_score=min_score)
        else:
            index, score = pick(own, values, method=method, sigma=sigma, tiou=tiou, min_score=min_score)
        picked += [(-float(s), int(group[i]), number) for i, s in zip(index, score, strict=True)]
    picked = sorted(picked)[:topk]
    kept = np.array([index for _, index, _ in picked], np.int64)
    final = segments[kept]
    if voting > 0:
        for row, (_, _, number) in enumerate(picked):
            group = groups[number]
            final[row] = vote(final[row], segments[group], scores[group], voting=voting, voting_weight=voting_weight)
    final_scores = np.array([-score for score, _, _ in picked], np.float32)
    if agreement:
        for row, (_, candidate, number) in enumerate(picked):
            group = groups[number]
            place = int(np.searchsorted(group, candidate))
            final_scores[row] *= agreed(place, segments[group], scores[group])
        order = np.lexsort((kept, -final_scores))
        kept, final, final_scores = kept[order], final[order], final_scores[order]
    return kept, final, final_scores
