"""Average precision of moments: detections within a distance in time of an instance, in frames or seconds.

Two rules. `moments` (E2E-Spot, Hong et al., ECCV 2022; its evaluation also scores T-DEED on tennis, figure skating and
diving): by descending score, a detection takes the nearest free instance of its video and class, the earlier of two at
the same distance, if that lies within the tolerance; AP uses all points of the precision envelope.

`soccernet` (Giancola et al. 2018, Deliege et al. 2021; package SoccerNet, Evaluation.ActionSpotting): times are rounded
down to frames of a fixed rate, of several detections of a class in one frame the last in the file counts, and of
several instances one. In the order of time, an instance takes the detection of the highest score among the free ones
within half of the tolerance, the earlier of two with the same score. Precision and recall are those of 200 thresholds
on the score, evenly spaced from 0 to 1, and AP is the mean over 11 values of recall of the largest precision at that
recall or more.
"""

# C candidate pairs, D detections, G instances, H tolerances, K classes, N resamples, R recall depths, V videos

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tad.annotations.moments import At, moment_of
from tad.core.errors import TadError
from tad.metrics.columns import Columns
from tad.metrics.matching import assign, average_precision, ranks

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
TEXT = re.compile(r"(\d+(?:\.\d+)?)([fs])")
FRAME_DIGITS, SECOND_DIGITS = 6, 9  # distances are rounded to these: 0.1 + 0.2 s is within 0.3 s
SLACK = 1e-3  # seconds added to the search for candidates, whose distance is then compared exactly
CONFIDENCES = np.linspace(0, 1, 200)
RECALLS = np.arange(11) / 10


class Tolerance(NamedTuple):
    """A distance in frames (`f`) or seconds (`s`)."""

    value: float
    unit: Literal["f", "s"]

    def __str__(self) -> str:
        return f"{self.value:g}{self.unit}"


def tolerance(text: str) -> Tolerance:
    """Return the tolerance that a text such as `2f` or `0.5s` states.

    Raises:
        TadError: it is not a number with a unit.
    """
    match = TEXT.fullmatch(text)
    if match is None:
        raise TadError(f"tolerance '{text:.40}': write frames as 2f and seconds as 0.5s")
    return Tolerance(float(match[1]), "f" if match[2] == "f" else "s")


@dataclass(frozen=True)
class Nearness:
    """When a detection is near an instance.

    Attributes:
        tolerances: (H,).
        rates: frames per second of the videos; needed for tolerances in frames.
        rule: see above.
        grid_rate: frames per second of rule `soccernet`.
        moment: the time of a detection, or of an instance, with a length; empty: they are refused.
        averages: named averages over evenly spaced tolerances, as texts.
    """

    tolerances: tuple[Tolerance, ...]
    rates: Mapping[str, float]
    rule: Literal["moments", "soccernet"] = "moments"
    grid_rate: float = 2.0
    moment: At = ""
    averages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def weights(self) -> Array | None:
        """The weights (H,) of the tolerances in the main average, the first of `averages`; None: equal ones."""
        return next(iter(self.average_weights().values()), None)

    def average_weights(self) -> dict[str, Array]:
        """Return the weights (H,) of each average all of whose tolerances are scored.

        An average is the area under mAP over evenly spaced tolerances, divided by its width: those at the two ends
        have half of the weight of the others.
        """
        names = [str(t) for t in self.tolerances]
        found = {}
        for name, members in self.averages.items():
            if set(members) <= set(names):
                weights = np.array([float(text in members) for text in names])
                if len(members) > 1:
                    for end in (members[0], members[-1]):
                        weights[names.index(end)] = 0.5
                found[name] = weights / weights.sum()
        return found

    def rates_of(self, ids: Sequence[str]) -> Array:
        """Return the frame rate of each video (V,), 1 where it is not needed.

        Raises:
            TadError: a tolerance is in frames, and the rate of a video is unknown.
        """
        if self.rule == "soccernet" or all(t.unit == "s" for t in self.tolerances):
            return np.ones(len(ids))
        unknown = [video_id for video_id in ids if not self.rates.get(video_id)]
        if unknown:
            raise TadError(
                f"the frame rate of {len(unknown)} of {len(ids)} videos, first '{unknown[0]}', is unknown, and"
                " tolerances are in frames; give it in the annotations (column fps, or the setting rate), or give"
                " tolerances in seconds, such as 0.1s"
            )
        return np.array([self.rates[video_id] for video_id in ids], np.float64)

    def seconds(self, ids: Sequence[str]) -> Array:
        """Return the tolerances of each video in seconds (V, H): the distance on each side of an instance."""
        if self.rule == "soccernet":
            one = np.array([_half(t, self) / self.grid_rate for t in self.tolerances])
            return np.tile(one, (len(ids), 1))
        rates = self.rates_of(ids)
        return np.array([[t.value / (r if t.unit == "f" else 1.0) for t in self.tolerances] for r in rates])

    def times(self, segments_N2: Array, what: str) -> Array:
        """Return the times (N,) of segments.

        Raises:
            TadError: one has a length, and no time of segments is chosen.
        """
        long = np.flatnonzero(segments_N2[:, 0] != segments_N2[:, 1])
        if len(long) and not self.moment:
            start, end = segments_N2[long[0]]
            raise TadError(
                f"{len(long)} of {len(segments_N2)} {what} have a length, the first from {start:g} to {end:g} s, and"
                " the protocol scores moments; choose their time with moment: start, middle or end (--moment)"
            )
        if not len(long):
            return np.ascontiguousarray(segments_N2[:, 0])
        return np.asarray(moment_of(segments_N2[:, 0], segments_N2[:, 1], self.moment))  # type: ignore[arg-type]

    def reaches(self, distance_C: Array, rate_C: Array, value: Tolerance) -> NDArray[np.bool_]:
        """Return whether distances in seconds lie within a tolerance (C,)."""
        if value.unit == "f":
            return np.asarray(np.round(distance_C * rate_C, FRAME_DIGITS) <= value.value)
        return np.asarray(np.round(distance_C, SECOND_DIGITS) <= value.value)


def as_points(columns: Columns, near: Nearness) -> Columns:
    """Return the detections with one time each.

    Raises:
        TadError: see `Nearness.times`.
    """
    if not len(columns):
        return columns
    time = near.times(columns.segments, "detections")
    return replace(columns, segments=np.stack([time, time], axis=1))


def candidates(
    time_D: Array, group_D: Indices, time_G: Array, first: Indices, reach_D: Array
) -> tuple[Indices, Indices, Array]:
    """Find the pairs of a detection and an instance of its group at most `reach_D` seconds apart.

    Args:
        group_D: index of each detection's group; the instances of group g are first[g]:first[g + 1], by time.

    Returns:
        Detection, instance and distance in seconds of each pair (C,), by detection, distance and instance.
    """
    low, high = first[group_D], first[group_D + 1]
    where = [np.zeros(len(time_D), np.int64), np.zeros(len(time_D), np.int64)]
    busy = np.flatnonzero(high > low)
    for d in busy.tolist():
        own = time_G[low[d] : high[d]]
        where[0][d] = low[d] + np.searchsorted(own, time_D[d] - reach_D[d], side="left")
        where[1][d] = low[d] + np.searchsorted(own, time_D[d] + reach_D[d], side="right")
    count = where[1] - where[0]
    detection = np.repeat(np.arange(len(time_D)), count)
    within = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
    instance = np.repeat(where[0], count) + within
    distance = np.abs(time_D[detection] - time_G[instance])
    order = np.lexsort((instance, np.round(distance, SECOND_DIGITS), detection))
    return detection[order], instance[order], distance[order]


def score_near(
    time_D: Array,
    group_D: Indices,
    starts: Indices,
    time_G: Array,
    first: Indices,
    *,
    rates_V: Array,
    near: Nearness,
    depths: Indices,
) -> tuple[Array, Array, NDArray[np.int32]]:
    """Match detections with instances under the rule `moments`, and score each class.

    The arguments are those of `tad.metrics.matching.score_classes`, with times in place of segments; the instances of a
    group are sorted by time.

    Returns:
        AP (H, K); recall (H, R, K); and the index of the instance that each detection matches (H, D), -1 for none.
    """
    videos = len(rates_V)
    rate_D = rates_V[group_D % videos] if len(group_D) else np.zeros(0)
    widest = np.array([[t.value / (r if t.unit == "f" else 1.0) for t in near.tolerances] for r in rates_V]).max(axis=1)
    reach_D = widest[group_D % videos] + SLACK if len(group_D) else np.zeros(0)
    detection, instance, distance = candidates(time_D, group_D, time_G, first, reach_D)
    rate, totals = rate_D[detection], np.diff(first[np.arange(len(starts)) * videos])
    rank, of_group = ranks(group_D)[detection], np.diff(first)[group_D[detection]]
    bounds = first[np.arange(len(starts)) * videos]
    ap = np.zeros((len(near.tolerances), len(totals)))
    recall = np.zeros((len(near.tolerances), len(depths), len(totals)))
    taken = np.full((len(near.tolerances), len(time_D)), -1, np.int32)
    for h, value in enumerate(near.tolerances):
        inside = near.reaches(distance, rate, value)
        for r, depth in enumerate(depths):
            hits = np.zeros(len(time_G) + 1, np.int64)
            reached = np.zeros(len(time_G), np.bool_)
            reached[instance[inside & (rank < depth * of_group)]] = True
            np.cumsum(reached, out=hits[1:])
            recall[h, r] = np.diff(hits[bounds]) / totals
        matched, which = assign(detection[inside], instance[inside], len(time_G))
        taken[h, matched] = which
        at = np.sort(matched)
        cuts = np.searchsorted(at, starts)
        for k, total in enumerate(totals.tolist()):
            ap[h, k] = average_precision(at[cuts[k] : cuts[k + 1]] - starts[k], total)
    return ap, recall, taken


# -- SoccerNet ---------------------------------------------------------------------------------------------------------


def grid_frames(time_N: Array, rate: float) -> Indices:
    """Return the frame of each time (N,): whole milliseconds, rounded down to frames."""
    milliseconds = np.floor(time_N * 1000 + 1e-6)
    return np.asarray(np.floor(rate * (milliseconds / 1000))).astype(np.int64)


def last_of_each(group_N: Indices, frame_N: Indices) -> Indices:
    """Return the rows that stay if the last one of every group and frame does, in order."""
    order = np.lexsort((np.arange(len(group_N)), frame_N, group_N))
    changes = (np.diff(group_N[order]) != 0) | (np.diff(frame_N[order]) != 0)
    last = np.append(changes, True) if len(order) else np.zeros(0, np.bool_)
    return np.sort(order[last])


def take_best(frame_D: Indices, score_D: Array, frame_G: Indices, half: float) -> Indices:
    """Match the detections and instances of a group, both by frame → the instance of each detection (D,), -1 for none.

    In order, an instance takes the free detection of the highest score at most `half` frames away; of equal scores the
    first.
    """
    taken = np.full(len(frame_D), -1, np.int64)
    for g, frame in enumerate(frame_G.tolist()):
        low = int(np.searchsorted(frame_D, frame - half, side="left"))
        high = int(np.searchsorted(frame_D, frame + half, side="right"))
        free = low + np.flatnonzero(taken[low:high] < 0)
        if len(free):
            taken[free[np.argmax(score_D[free])]] = g
    return taken


def eleven_points(hits_NT: Any, seen_NT: Any, total_N: Any) -> Array:
    """Compute AP (N,) from the numbers of matched and of all detections at each threshold; 0 without instances."""
    precision_NT = hits_NT / np.maximum(seen_NT, 1)
    recall_NT = hits_NT / np.maximum(total_N, 1)[:, None]
    return np.asarray(np.mean([np.where(recall_NT >= r, precision_NT, 0.0).max(axis=1) for r in RECALLS], axis=0))


@dataclass(frozen=True)
class Curves:
    """Matched and all detections above each of T thresholds, per class and video, for the bootstrap.

    Attributes:
        hits: (H, K, V, T). seen: (K, V, T).
    """

    hits: NDArray[np.int32]
    seen: NDArray[np.int32]

    def mean_ap(self, counts_NV: Indices, totals_NK: Indices) -> Array:
        """Return the mAP (N, H) of resamples in which video v occurs counts_NV[n, v] times; NaN without instances."""
        classes_N, counts_NV = (totals_NK > 0).sum(axis=1), counts_NV.astype(np.float64)
        sums_HN = np.zeros((len(self.hits), len(counts_NV)))
        for k, seen_VT in enumerate(self.seen):
            seen_NT = counts_NV @ seen_VT
            for sum_N, hits_VT in zip(sums_HN, self.hits[:, k], strict=True):
                sum_N += eleven_points(counts_NV @ hits_VT, seen_NT, totals_NK[:, k])
        scores_NH = np.full((len(counts_NV), len(self.hits)), np.nan)
        scores_NH[classes_N > 0] = (sums_HN[:, classes_N > 0] / classes_N[classes_N > 0]).T
        return scores_NH


def score_soccernet(
    frames: tuple[Indices, Indices],
    scores_D: Array,
    group_D: Indices,
    first: Indices,
    *,
    videos: int,
    near: Nearness,
) -> tuple[Array, NDArray[np.int32], Curves]:
    """Match detections with instances under the rule `soccernet`, and score each class.

    Args:
        frames: frames of the detections (D,), one per frame and group, and of the instances (G,), by group and frame.
        group_D: group of each detection, class by class; the instances of group g are first[g]:first[g + 1].

    Returns:
        AP (H, K), the instance of each detection (H, D), -1 for none, and the curves of each video.
    """
    frame_D, frame_G = frames
    if len(scores_D) and not 0 <= scores_D.min() <= scores_D.max() <= 1:
        log.warning(
            "scores from %g to %g lie outside [0, 1], where this protocol's thresholds are: those above 1 have no"
            " order, and those below 0 never count; map them to [0, 1] (for example by a sigmoid for logits)",
            scores_D.min(), scores_D.max(),
        )  # fmt: skip
    groups = len(first) - 1
    classes = groups // videos
    by_frame = np.lexsort((frame_D, group_D))
    cuts = np.searchsorted(group_D[by_frame], np.arange(groups + 1))
    taken = np.full((len(near.tolerances), len(frame_D)), -1, np.int32)
    hits = np.zeros((len(near.tolerances), groups, len(CONFIDENCES)), np.int32)
    seen = np.zeros((groups, len(CONFIDENCES)), np.int32)
    for g in range(groups):
        rows = by_frame[cuts[g] : cuts[g + 1]]
        seen[g] = (scores_D[rows][:, None] >= CONFIDENCES).sum(axis=0)
        for h, value in enumerate(near.tolerances):
            own = take_best(frame_D[rows], scores_D[rows], frame_G[first[g] : first[g + 1]], _half(value, near))
            matched = own >= 0
            taken[h, rows[matched]] = own[matched] + first[g]
            hits[h, g] = (scores_D[rows[matched]][:, None] >= CONFIDENCES).sum(axis=0)
    shape = (classes, videos, len(CONFIDENCES))
    curves = Curves(hits.reshape(-1, *shape), seen.reshape(shape))
    totals = np.diff(first[np.arange(classes + 1) * videos])
    seen_KT, hits_HKT = curves.seen.sum(axis=1), curves.hits.sum(axis=2)
    ap = np.array([eleven_points(hits_KT, seen_KT, totals) for hits_KT in hits_HKT])
    return ap, taken, curves


def _half(value: Tolerance, near: Nearness) -> float:
    return value.value * (near.grid_rate if value.unit == "s" else 1.0) / 2
