"""What keeps the score down: kinds of error, which instances are hard, which are missed, whether scores mean something.

Alwassel, Caba Heilbron, Escorcia, Ghanem: Diagnosing Error in Temporal Action Detectors (DETAD), ECCV 2018. Kinds of
error, the normalised precision, the removal of a kind and the named buckets are theirs. Two choices are ours: where
instances of several labels overlap a detection equally, that of its own label counts; and beside the paper's gain in
normalised mAP over the best 10·G detections there is the gain in mAP itself over all of them.
"""

# D detections, G instances, H tIoU thresholds, K classes, V videos

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tad.compiled import compiled
from tad.metrics.evaluation import Evaluation
from tad.metrics.kernels import tiou_of

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

KINDS = ("true positive", "double detection", "wrong label", "localization", "confusion", "background")
RIGHT, DOUBLE, LABEL, LOCALIZATION, CONFUSION, BACKGROUND = range(6)
NEAR = 0.1  # tIoU below which a detection is of the background
DEPTH = 10  # error profiles look at the best 10 · G detections of a class with G instances
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
def error_kinds(
    segments: Any, label: Any, video: Any, taken: Any, instances: Any, classes: Any, order: Any, first: Any, tious: Any
) -> Any:
    """(H, D) row of `KINDS`; instances of video v are order[first[v]:first[v + 1]]."""
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
    """AP of one class from the kept detections, by descending score.

    `norm`: the number of instances that precision is computed as if there were; `instances` itself for plain AP.
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


class Diagnosis:
    """The diagnosis of an evaluation under ActivityNet's rule.

    Args:
        result: made with `matching="activitynet"`.
        durations: seconds of each video, for coverage; a video without one has no coverage.
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
        self.kinds_HD = error_kinds(
            self.detail.segments, self.label_D, self.matches.video, self.detail.taken, self.detail.instances,
            self.detail.classes, order, first, np.array(result.tiou, np.float64),
        )  # fmt: skip
        length_G = self.detail.instances[:, 1] - self.detail.instances[:, 0]
        duration_V = np.array([durations.get(video_id) or np.nan for video_id in ids])
        group_G = self.detail.classes * len(ids) + self.detail.videos
        self.facts: dict[str, Array] = {
            "coverage": np.minimum(length_G / duration_V[self.detail.videos], 1.0),
            "length": length_G,
            "instances": np.bincount(group_G)[group_G].astype(np.float64),
        }

    def _ap(self, keep_HD: Mask, counts_K: NDArray[np.int64], *, normalised: bool) -> Array:
        """AP (H, K) of the kept detections; NaN for classes without instances."""
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
        """How the best detections divide into kinds, and what the score gains when one kind is removed."""
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
        found: dict[str, Any] = {
            "kinds": list(KINDS),
            "depth": DEPTH,
            "profile": profile,
            "share": dict(zip(KINDS, shares, strict=True)),
            "gain": {kind: {} for kind in KINDS[1:]},
        }
        for name, (keep, normalised) in base.items():
            score = float(self._ap(keep, self.counts_K, normalised=normalised).mean())
            found[name] = score
            for kind in range(1, 6):
                less = self._ap(keep & (self.kinds_HD != kind), self.counts_K, normalised=normalised).mean()
                found["gain"][KINDS[kind]][name] = float(less) - score
        return found

    def _edges(self, fact: str, buckets: str) -> list[float]:
        """Borders of the buckets of a characteristic: the named ones, or quintiles of the data."""
        if buckets in BUCKETS:
            return list(BUCKETS[buckets][fact])
        values = self.facts[fact][np.isfinite(self.facts[fact])]
        if not len(values):
            return []
        inner = np.unique(np.quantile(values, [0.2, 0.4, 0.6, 0.8]))
        if fact == "instances":
            inner = np.unique(np.round(inner))
        return [0.0, *[float(x) for x in inner if x < values.max()], float(values.max())]

    def characteristics(self, buckets: str) -> dict[str, Any]:
        """Per bucket of coverage, length (seconds) and number of instances of the class in the video: how many
        instances there are, their normalised mAP, and the share that is missed (mean over the thresholds).

        A bucket (low, high] counts detections that take its instances, and all that take none.
        """
        found_HG = np.zeros((len(self.right_HD), len(self.detail.classes)), np.bool_)
        for h, taken in enumerate(self.detail.taken):
            found_HG[h, taken[taken >= 0]] = True
        described = {}
        for fact, values_G in self.facts.items():
            rows = []
            edges = self._edges(fact, buckets)
            for k, (low, high) in enumerate(pairwise(edges)):
                inside_G = (values_G > low) & (values_G <= high)
                count = int(inside_G.sum())
                row = {"size": SIZES[k], "low": low, "high": None if high == INFINITE else high, "count": count}
                if count:
                    keep_HD = ~self.right_HD | inside_G[self.detail.taken]
                    counts_K = np.bincount(self.detail.classes[inside_G], minlength=len(self.counts_K))
                    row["normalised_mAP"] = float(np.nanmean(self._ap(keep_HD, counts_K, normalised=True)))
                    row["missed"] = float(1 - found_HG[:, inside_G].mean())
                rows.append(row)
            described[fact] = rows
        every = np.ones_like(self.right_HD)
        missed_K = [1 - float(found_HG[:, self.detail.classes == k].mean()) for k in range(len(self.counts_K))]
        return {
            "buckets": buckets,
            "normalised_mAP": float(self._ap(every, self.counts_K, normalised=True).mean()),
            "missed": 1 - float(found_HG.mean()),
            "missed_per_class": dict(zip(self.result.labels, missed_K, strict=True)),
            **described,
        }

    def calibration(self) -> dict[str, Any]:
        """Score against the share of right detections (mean over the thresholds), in bins of equal width from 0 to the
        highest score (at least 1), and the mean distance of the two weighted by the number of detections."""
        scores = self.detail.scores
        top = max(float(scores.max(initial=0.0)), 1.0)
        bin_D = np.minimum((scores / top * BINS).astype(np.int64), BINS - 1)
        right_D = self.right_HD.mean(axis=0)
        bins: list[dict[str, float]] = []
        error = 0.0
        for k in range(BINS):
            at = bin_D == k
            if at.any():
                score, share = float(scores[at].mean()), float(right_D[at].mean())
                bins.append({"low": k * top / BINS, "count": int(at.sum()), "score": score, "right": share})
                error += int(at.sum()) * abs(score - share)
        return {"bins": bins, "error": error / max(len(scores), 1), "tiou": list(self.result.tiou)}

    def document(self, buckets: str) -> dict[str, Any]:
        """Everything, as fractions: what diagnosis.json holds."""
        return {
            "tiou": list(self.result.tiou),
            "errors": self.errors(),
            "characteristics": self.characteristics(buckets),
            "calibration": self.calibration(),
        }
