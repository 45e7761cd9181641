"""Error diagnosis (DETAD): kinds of error, sensitivity to kinds of instances, missed instances and calibration.

Alwassel, Caba Heilbron, Escorcia, Ghanem: Diagnosing Error in Temporal Action Detectors (DETAD), ECCV 2018. The kinds
of error, the normalised precision, the removal of a kind and the named buckets are from the paper. Two choices are
ours: if a detection overlaps instances of several labels equally, the instance of its own label counts; and next to the
paper's gain in normalised mAP over the best 10·G detections we report the gain in plain mAP over all detections.
"""

# D detections, G instances, H tIoU thresholds, K classes, V videos

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.core.compiled import compiled
from tad.metrics.evaluation import Evaluation
from tad.metrics.moments import Nearness

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

KINDS = ("true positive", "double detection", "wrong label", "localization", "confusion", "background")
RIGHT, DOUBLE, LABEL, LOCALIZATION, CONFUSION, BACKGROUND = range(6)
FAR = 10  # times the largest tolerance, up to which a detection of moments misses one, rather than being background
NEAR = 0.1  # a detection with a smaller tIoU to every instance is a background error
DEPTH = 10  # error profiles use the best 10 · G detections of a class with G instances
BINS = 10
SIZES = ("XS", "S", "M", "L", "XL")
INFINITE = float("inf")
BUCKETS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "thumos14": {
        "coverage": (0.0, 0.02, 0.04, 0.06, 0.08, 1.0),
        "length": (0.0, 3.0, 6.0, 12.0, 18.0, INFINITE),
        "instances": (0.0, 1.0, 40.0, 80.0, INFINITE),
    },
    "activitynet": {
        "coverage": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        "length": (0.0, 30.0, 60.0, 120.0, 180.0, INFINITE),
        "instances": (0.0, 1.0, 4.0, 8.0, INFINITE),
    },
}


@compiled
def tiou_of(a: Any, b: Any) -> Any:
    """Compute the tIoU of two segments; two points, whose union has zero length, have tIoU 1 if equal, else 0."""
    inter = min(a[1], b[1]) - max(a[0], b[0])
    if inter <= 0.0:
        return 1.0 if inter == 0.0 and a[0] == b[0] and a[1] == b[1] else 0.0
    return inter / ((a[1] - a[0]) + (b[1] - b[0]) - inter)


@compiled
def error_kinds(
    segments: Any, label: Any, video: Any, taken: Any, instances: Any, classes: Any, order: Any, first: Any, tious: Any
) -> Any:
    """Classify each detection: (H, D) index into `KINDS`; instances of video v are order[first[v]:first[v + 1]]."""
    kinds = np.zeros((len(tious), len(segments)), np.int8)
    for d in range(len(segments)):
        best, own = -1.0, False
        for j in range(first[video[d]], first[video[d] + 1]):
            g = order[j]
            share = tiou_of(segments[d], instances[g])
            if share > best or (share == best and classes[g] == label[d]):
                best, own = share, classes[g] == label[d]
        for h in range(len(tious)):
            if taken[h, d] >= 0:
                kinds[h, d] = RIGHT
            elif best >= tious[h]:
                kinds[h, d] = DOUBLE if own else LABEL
            elif best >= NEAR:
                kinds[h, d] = LOCALIZATION if own else CONFUSION
            else:
                kinds[h, d] = BACKGROUND
    return kinds


@compiled
def precision_area(right: Any, keep: Any, instances: Any, norm: Any) -> Any:
    """Compute the AP of one class from the detections in the mask `keep`, by descending score.

    `norm` is the number of instances that normalised precision assumes; `instances` gives plain AP.
    """
    precision = np.zeros(len(right), np.float64)
    hits = misses = 0
    for d in range(len(right)):
        if keep[d]:
            hits += right[d]
            misses += not right[d]
            credit = hits / instances * norm
            precision[d] = credit / (credit + misses) if hits else 0.0
    area = envelope = 0.0
    for d in range(len(right) - 1, -1, -1):
        if keep[d]:
            envelope = max(envelope, precision[d])
            if right[d]:
                area += envelope
    return area / instances


def _gaps(time_G: Array, video_G: NDArray[np.int64]) -> Array:
    """Return the seconds from each moment to the nearest other one of its video (G,); infinite if it is alone."""
    order = np.lexsort((time_G, video_G))
    apart = np.diff(time_G[order])
    apart[np.diff(video_G[order]) != 0] = np.inf
    gaps = np.empty(len(time_G))
    gaps[order] = np.minimum(np.append(apart, np.inf), np.insert(apart, 0, np.inf))[: len(time_G)]
    return gaps


class Diagnosis:
    """The diagnosis of an evaluation under ActivityNet's rule, or of moments.

    Of moments, the distance takes the place of tIoU: a detection within the tolerance of an instance is right, double
    or has a wrong label, one within `FAR` times the largest tolerance is a localization error or a confusion. Instances
    have no length; the seconds to the nearest other one in the video describe them instead.

    Args:
        result: an evaluation with `matching="activitynet"`, or of moments.
        durations: seconds of each video, for coverage; instances of a video without a duration have no coverage.
    """

    def __init__(self, result: Evaluation, *, durations: Mapping[str, float]) -> None:
        self.result, self.detail, self.matches = result, result.detail, result.matches
        self.right_HD = self.detail.taken >= 0
        starts = self.matches.starts
        self.label_D = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        self.rank_D = np.arange(len(self.label_D)) - starts[self.label_D]
        self.counts_K = np.array(result.instances, np.int64)
        self.top_D = self.rank_D < DEPTH * self.counts_K[self.label_D]
        ids = self.matches.video_ids
        order = np.argsort(self.detail.videos, kind="stable")
        first = np.searchsorted(self.detail.videos[order], np.arange(len(ids) + 1))
        group_G = self.detail.classes * len(ids) + self.detail.videos
        self.facts: dict[str, Array] = {}
        if result.near is not None:
            self.kinds_HD = self._kinds_of_moments(result.near, order, first)
            self.facts["gap"] = _gaps(self.detail.instances[:, 0], self.detail.videos)
            self.facts["instances"] = np.bincount(group_G)[group_G].astype(np.float64)
            return
        self.kinds_HD = error_kinds(
            self.detail.segments, self.label_D, self.matches.video, self.detail.taken, self.detail.instances,
            self.detail.classes, order, first, np.array(result.tiou, np.float64),
        )  # fmt: skip
        length_G = self.detail.instances[:, 1] - self.detail.instances[:, 0]
        duration_V = np.array([durations.get(video_id) or np.nan for video_id in ids])
        self.facts = {
            "coverage": np.minimum(length_G / duration_V[self.detail.videos], 1.0),
            "length": length_G,
            "instances": np.bincount(group_G)[group_G].astype(np.float64),
        }

    def _kinds_of_moments(self, near: Nearness, order: Any, first: Any) -> NDArray[np.int8]:
        """Return the kind of each detection of moments (H, D)."""
        limits_VH = near.seconds(self.matches.video_ids)
        kinds = np.full((len(near.tolerances), len(self.label_D)), BACKGROUND, np.int8)
        for d in range(len(self.label_D)):
            v = int(self.matches.video[d])
            rows = order[first[v] : first[v + 1]]
            if len(rows):
                apart = np.abs(self.detail.instances[rows, 0] - self.detail.segments[d, 0])
                own = self.detail.classes[rows] == self.label_D[d]
                best = apart.min()
                is_own = bool(own[apart == best].any())
                far = best <= FAR * limits_VH[v].max()
                kinds[:, d] = (LOCALIZATION if is_own else CONFUSION) if far else BACKGROUND
                kinds[best <= limits_VH[v] + 1e-6, d] = DOUBLE if is_own else LABEL
        kinds[self.right_HD] = RIGHT
        return kinds

    def _ap(self, keep_HD: Mask, counts_K: NDArray[np.int64], *, normalised: bool) -> Array:
        """Compute AP (H, K) of the detections in `keep_HD`; NaN for classes without instances."""
        starts = self.matches.starts
        norm = float(self.counts_K.mean())
        ap = np.full((len(self.right_HD), len(counts_K)), np.nan)
        for k in np.flatnonzero(counts_K):
            a, b = starts[k], starts[k + 1]
            for h in range(len(ap)):
                as_if = norm if normalised else float(counts_K[k])
                ap[h, k] = precision_area(self.right_HD[h, a:b], keep_HD[h, a:b], counts_K[k], as_if)
        return ap

    def errors(self) -> dict[str, Any]:
        """Return the error profile of the best detections, and the gain in score when one kind of error is removed."""
        depth_D = self.rank_D // np.maximum(self.counts_K[self.label_D], 1)
        profile = []
        for g in range(DEPTH):
            at = depth_D == g
            total = max(int(at.sum()), 1)
            counts = np.bincount(self.kinds_HD[:, at].ravel(), minlength=len(KINDS))
            profile.append((counts / len(self.kinds_HD) / total).tolist())
        every = np.ones_like(self.right_HD)
        top = every & self.top_D
        base = {"mAP": (every, False), "normalised_mAP": (top, True)}
        counts = np.bincount(self.kinds_HD[:, self.top_D].ravel(), minlength=len(KINDS))
        shares = (counts / max(int(counts.sum()), 1)).tolist()
        report: dict[str, Any] = {
            "kinds": list(KINDS),
            "depth": DEPTH,
            "profile": profile,
            "share": dict(zip(KINDS, shares, strict=True)),
            "gain": {kind: {} for kind in KINDS[1:]},
        }
        for name, (keep, normalised) in base.items():
            score = float(self._ap(keep, self.counts_K, normalised=normalised).mean())
            report[name] = score
            for kind in range(1, 6):
                less = self._ap(keep & (self.kinds_HD != kind), self.counts_K, normalised=normalised).mean()
                report["gain"][KINDS[kind]][name] = float(less) - score
        return report

    def _edges(self, fact: str, buckets: str) -> list[float]:
        """Return the bucket edges of a characteristic: those of the named buckets, or quintiles of the data."""
        if buckets in BUCKETS and fact in BUCKETS[buckets]:
            return list(BUCKETS[buckets][fact])
        values = self.facts[fact][np.isfinite(self.facts[fact])]
        endless = bool(np.isinf(self.facts[fact]).any())  # a moment that is alone in its video
        if not len(values):
            return [0.0, INFINITE] if endless else []
        inner = np.unique(np.quantile(values, [0.2, 0.4, 0.6, 0.8]))
        if fact == "instances":
            inner = np.unique(np.round(inner))
        return [0.0, *[float(x) for x in inner if x < values.max()], INFINITE if endless else float(values.max())]

    def characteristics(self, buckets: str) -> dict[str, Any]:
        """Return sensitivity and false negatives per bucket of coverage, length and number of instances.

        Length is in seconds; the number is that of instances of the class in the video. Each bucket has its number of
        instances, their normalised mAP and the share that is missed (mean over the thresholds). A bucket (low, high]
        counts the detections matched to its instances, and all unmatched detections. The first one also has the
        instances without length, where a protocol counts them.
        """
        detected_HG = np.zeros((len(self.right_HD), len(self.detail.classes)), np.bool_)
        for h, taken in enumerate(self.detail.taken):
            detected_HG[h, taken[taken >= 0]] = True
        described = {}
        for fact, values_G in self.facts.items():
            rows = []
            edges = self._edges(fact, buckets)
            for k, (low, high) in enumerate(pairwise(edges)):
                inside_G = ((values_G > low) | (k == 0)) & (values_G <= high)
                count = int(inside_G.sum())
                row = {"size": SIZES[k], "low": low, "high": None if high == INFINITE else high, "count": count}
                if count:
                    keep_HD = ~self.right_HD | inside_G[self.detail.taken]
                    counts_K = np.bincount(self.detail.classes[inside_G], minlength=len(self.counts_K))
                    row["normalised_mAP"] = float(np.nanmean(self._ap(keep_HD, counts_K, normalised=True)))
                    row["missed"] = float(1 - detected_HG[:, inside_G].mean())
                rows.append(row)
            described[fact] = rows
        every = np.ones_like(self.right_HD)
        missed_K = [1 - float(detected_HG[:, self.detail.classes == k].mean()) for k in range(len(self.counts_K))]
        return {
            "buckets": buckets,
            "normalised_mAP": float(self._ap(every, self.counts_K, normalised=True).mean()),
            "missed": 1 - float(detected_HG.mean()),
            "missed_per_class": dict(zip(self.result.labels, missed_K, strict=True)),
            **described,
        }

    def calibration(self) -> dict[str, Any]:
        """Return the reliability diagram and the expected calibration error of the scores.

        Bins have equal width from 0 to 1; each compares the mean score with the share of true positives (mean over the
        thresholds). `error` is their mean distance, weighted by the number of detections. Calibration is defined for
        probabilities only: for other scores there are no bins, `error` is None, and `refused` gives the reason.
        """
        scores = self.detail.scores
        if len(scores) and (scores.min() < 0 or scores.max() > 1):
            why = f"scores from {scores.min():g} to {scores.max():g} are not probabilities"
            return {"bins": [], "error": None, "refused": why, **self._thresholds()}
        bin_D = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
        right_D = self.right_HD.mean(axis=0)
        bins: list[dict[str, float]] = []
        error = 0.0
        for k in range(BINS):
            at = bin_D == k
            if at.any():
                score, share = float(scores[at].mean()), float(right_D[at].mean())
                bins.append({"low": k / BINS, "count": int(at.sum()), "score": score, "right": share})
                error += int(at.sum()) * abs(score - share)
        return {"bins": bins, "error": error / max(len(scores), 1), "refused": "", **self._thresholds()}

    def _thresholds(self) -> dict[str, Any]:
        if self.result.near is not None:
            return {"tolerances": list(self.result.names)}
        return {"tiou": list(self.result.tiou)}

    def document(self, buckets: str) -> dict[str, Any]:
        """Return the content of diagnosis.json; all scores are fractions."""
        return {
            **self._thresholds(),
            "errors": self.errors(),
            "characteristics": self.characteristics(buckets),
            "calibration": self.calibration(),
        }
