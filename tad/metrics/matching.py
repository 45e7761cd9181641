"""Matching of detections with instances, average precision and recall, on sorted arrays.

Everything is NumPy: a loop that numba compiles is no faster at these sizes, and importing numba takes longer than
scoring a data set. `tad.metrics.reference` is the definition.
"""

# C candidate pairs, D detections, G instances, H tIoU thresholds, K classes, N segments, R recall depths, V videos

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
FEW_CLASSES = 500  # up to which NumPy is called for every class
PAIRS = 1 << 18  # at most this many pairs are compared at a time, so that they stay in the processor's cache


def overlaps(a_N2: Array, b_N2: Array, *, as_given: bool = False) -> Array:
    """Compute the tIoU of pairs of segments (N,).

    Two points, whose union has zero length, have tIoU 1 if they are equal, else 0.

    With `as_given`, segments may be reversed, and tIoU is that of ActivityNet's script: a reversed segment has a
    negative length and intersects nothing. If the union is 0, the script divides 0 by 0 and the result passes every
    threshold; this function returns infinity.
    """
    inter = np.minimum(a_N2[:, 1], b_N2[:, 1]) - np.maximum(a_N2[:, 0], b_N2[:, 0])
    lengths = (a_N2[:, 1] - a_N2[:, 0]) + (b_N2[:, 1] - b_N2[:, 0])
    with np.errstate(divide="ignore", invalid="ignore"):  # divisions by zero are replaced below
        if as_given:
            inter = np.maximum(inter, 0.0)
            union = lengths - inter
            return np.asarray(np.where(union == 0.0, np.inf, inter / union))
        share = inter / (lengths - inter)
    equal_points = (inter == 0.0) & (a_N2 == b_N2).all(axis=1)
    return np.asarray(np.where(inter > 0.0, share, equal_points))


def candidates(
    segments_D2: Array, group_D: Indices, instances_G2: Array, first: Indices, *, least: float, as_given: bool
) -> tuple[Indices, Indices, Array]:
    """Find the pairs of a detection and an instance of its group whose tIoU is at least `least`.

    Args:
        group_D: index of each detection's group; the instances of group g are first[g]:first[g + 1].

    Returns:
        Detection, instance and tIoU of each pair (C,), sorted by detection, then by descending tIoU; of equal tIoU, the
        last instance comes first.
    """
    size = np.diff(first)[group_D]
    inside = np.flatnonzero(size)
    size, start = size[inside], first[group_D[inside]]
    ends = np.cumsum(size)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    a = 0
    while a < len(inside):
        before = ends[a] - size[a]
        b = max(int(np.searchsorted(ends, before + PAIRS, side="right")), a + 1)
        detection = np.repeat(inside[a:b], size[a:b])
        offset = start[a:b] - (ends[a:b] - size[a:b] - before)
        instance = np.arange(len(detection)) + np.repeat(offset, size[a:b])
        share = overlaps(segments_D2[detection], instances_G2[instance], as_given=as_given)
        near = np.flatnonzero(share >= least)
        parts.append((detection[near], instance[near], share[near]))
        a = b
    detection, instance, share = (np.concatenate(part) for part in zip(*parts, strict=True))
    several = np.zeros(len(detection) + 1, np.bool_)  # most detections have a single candidate and need no sorting
    several[1:-1] = detection[1:] == detection[:-1]
    rows = np.flatnonzero(several[1:] | several[:-1])
    order = rows[np.lexsort((-instance[rows], -share[rows], detection[rows]))]
    instance[rows], share[rows] = instance[order], share[order]
    return detection, instance, share


def assign(detection_C: Indices, instance_C: Indices, instances: int) -> tuple[Indices, Indices]:
    """Match detections greedily: in order, each takes its preferred instance among those that are still free.

    All detections ask for their preferred instance at once, and each instance keeps the first detection that asks;
    those turned away, now or later, ask for their next one. The result is that of the loop over detections.

    Args:
        detection_C, instance_C: candidate pairs by detection, preferred instances first.
        instances: number of instances.

    Returns:
        The matched detections and their instances (at most `instances` pairs, sorted by instance).
    """
    at = np.flatnonzero(np.diff(detection_C, prepend=-1))  # each detection's current candidate
    ends = np.append(at[1:], len(detection_C))
    detections = detection_C[at]
    nobody = len(at)
    holder = np.full(instances, nobody)
    asking = np.arange(len(at))
    while len(asking):
        wanted = instance_C[at[asking]]
        before = holder[wanted]
        np.minimum.at(holder, wanted, asking)
        granted = holder[wanted] == asking
        displaced = before[granted]
        asking = np.concatenate([asking[~granted], displaced[displaced < nobody]])
        at[asking] += 1
        asking = asking[at[asking] < ends[asking]]
    held = np.flatnonzero(holder < nobody)
    return detections[holder[held]], held


def ranks(group_D: Indices) -> Indices:
    """Return the rank (D,), from 0, of each element among those of its group, in order."""
    order = np.argsort(group_D, kind="stable")
    new = np.flatnonzero(np.diff(group_D[order], prepend=-1))
    rank = np.empty(len(group_D), np.int64)
    rank[order] = np.arange(len(group_D)) - np.repeat(new, np.diff(new, append=len(group_D)))
    return rank


def average_precision(found: Indices, instances: int) -> float:
    """Compute the area under the precision envelope over recall, at all points (VOC 2011).

    Between matched detections precision can only fall, so the envelope is evaluated at matched detections only.

    Args:
        found: positions, from 0, of the matched detections in the order of descending score.
        instances: number of instances.
    """
    if not len(found):
        return 0.0
    precision = np.arange(1, len(found) + 1) / (found + 1)
    envelope = np.maximum.accumulate(precision[::-1])
    return float(np.add.accumulate(envelope)[-1]) / instances  # summed in order, unlike by numpy.sum


def _average_precisions(found_P: Indices, cuts: Indices, starts: Indices, totals_K: Indices) -> Array:
    """Compute AP (K,) of all classes; those of class k are found_P[cuts[k]:cuts[k + 1]]."""
    if len(totals_K) > FEW_CLASSES:
        from tad.metrics.many_classes import average_precisions  # imports numba

        many: Array = average_precisions(found_P, cuts, starts, totals_K)
        return many
    return np.array(
        [
            average_precision(found_P[cuts[k] : cuts[k + 1]] - starts[k], total)
            for k, total in enumerate(totals_K.tolist())
        ]
    )


def score_classes(
    segments: Array,
    group: Indices,
    starts: Indices,
    instances: Array,
    first: Indices,
    *,
    bounds: Indices,
    tious: Array,
    depths: Indices,
    as_given: bool,
) -> tuple[Array, Array, Any]:
    """Match detections with instances under ActivityNet's rule, and score each class.

    A detection is matched to the unmatched instance of its video and class with the largest tIoU (ties: the last one),
    if that reaches the threshold (inclusive). This is equivalent to ActionFormer's evaluator, which tries the instances
    in descending order of tIoU.

    Args:
        segments: (D, 2) by class, then by descending score. group: (D,) index into `first`: the detection's class and
            video. All detections without an instance of their class in their video may share a group.
        starts: (K + 1,) detections of class k are starts[k]:starts[k + 1].
        instances: (G, 2) sorted by group; those of group g are first[g]:first[g + 1].
        bounds: (K + 1,) instances of class k are bounds[k]:bounds[k + 1].
        tious: (H,) thresholds.
        depths: (R,) recall uses the best depth · n detections of a video with n instances.
        as_given: see `overlaps`.

    Returns:
        AP (H, K); recall (H, R, K); and the index of the instance that each detection matches (H, D) int32, -1 for
        none.
    """
    detection, instance, share = candidates(
        segments, group, instances, first, least=float(tious.min()), as_given=as_given
    )
    totals = np.diff(bounds)
    rank, of_group = ranks(group)[detection], np.diff(first)[group[detection]]
    recall = np.zeros((len(tious), len(depths), len(totals)))
    for r, depth in enumerate(depths):
        best = rank < depth * of_group
        reached = np.zeros(len(instances))
        np.maximum.at(reached, instance[best], share[best])
        hits = np.zeros((len(tious), len(instances) + 1), np.int64)
        np.cumsum(reached >= tious[:, None], axis=1, out=hits[:, 1:])
        recall[:, r] = np.diff(hits[:, bounds]) / totals
    ap = np.zeros((len(tious), len(totals)))
    taken = np.full((len(tious), len(segments)), -1, np.int32)
    for h, tiou in enumerate(tious):
        near = share >= tiou
        matched, which = assign(detection[near], instance[near], len(instances))
        taken[h, matched] = which
        at = np.sort(matched)
        cuts = np.searchsorted(at, starts)
        ap[h] = _average_precisions(at, cuts, starts, totals)
    return ap, recall, taken
